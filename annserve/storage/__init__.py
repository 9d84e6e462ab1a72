"""Bytes to the device and back: atomic files, checksummed containers, readers of 4 KB pages.

=============  ==============================================================================================
`checksum`     CRC-32C of whole buffers
`atomic`       files that appear whole or not at all; one writer per folder
`container`    the one layout of every file of an index: named, aligned, checksummed sections
`reader`       the contract of a page reader, and which one a device gets
`pagefile`     what all readers share: the open file, the check of a request, frames to read into
`uring`        reader: io_uring, all reads of a batch in flight together
`direct`       reader: a pool of threads that call pread
`mmap`         reader of last resort: the page cache, mapped
`kernels`      CRC-32C of a page, and the io_uring and pread loops, compiled
=============  ==============================================================================================

Absent on purpose: what the bytes mean. Rows, heads and codes are the business of the rooms above.
"""
