"""The BIDS App: the participants of a BIDS data set predicted into a BIDS derivative, and a table of all of them."""
