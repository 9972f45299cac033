"""The concept map of a class: what its material covers, what depends on what, what is missing."""
