"""What a corpus is like: counted while it is made, shown on one page."""
