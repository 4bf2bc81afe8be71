"""Questions, groups of completions with their rewards, and files of them."""
