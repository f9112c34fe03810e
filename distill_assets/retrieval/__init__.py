"""Words, BM25, dense search, fusion of rankings, and hard negatives from them."""
