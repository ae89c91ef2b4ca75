"""Numbers and maps turned into things to look at."""
