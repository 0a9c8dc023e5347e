"""Facts about a data set and its problems, before anything is trained."""
