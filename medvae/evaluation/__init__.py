"""Maps and truth turned into numbers."""
