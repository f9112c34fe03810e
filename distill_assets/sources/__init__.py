"""Where documents, queries and judgements come from. `base` holds the interface, each module one kind of source."""
