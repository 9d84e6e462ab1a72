"""Posting pages: INT8 rows on 4 KB pages, as they lie on the device.

What rests here: the page layout (``layout``), how rows become INT8 (``rows``), how pages are written (``pack``)
and how rows on pages that were read are scored (``score``). Absent on purpose: which pages to read (``search``)
and how bytes come from the device (``storage``).
"""
