"""Through which every call comes: let in or not, watched, and answered with a status whatever it raises.

``status`` is the door itself, ``patience`` ends the wait for messages that don't come, ``pool`` knows when there is no
room for a call, ``room`` when there is none for a large message.
"""
