"""Several inference servers as one: which are asked, which have left, and what each has been given."""
