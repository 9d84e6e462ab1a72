"""Pages in less RAM, without loss: of each row, only what its code doesn't say.

Rows' codes are in RAM anyway, and halve what is unknown of a row; so a page that is kept for later is kept as the
differences between its rows and what their codes predict of them.
"""
