"""One file per command: it parses its arguments, calls the library and prints. Heavy imports wait until needed.

They are separate from the packages they call, which do not depend on a command line and take seconds to import.
"""
