"""One file per command: it parses its arguments, calls the library and prints. Heavy imports wait until needed.

Apart from the rooms that they call, which know nothing of a command line, and whose imports take seconds.
"""
