"""A small class, and the concepts that are in it."""

CLASS = [
    ("How do you add fractions?", "Give them one denominator, then add the numerators."),
    ("Why does adding fractions need a common denominator?", "Parts must be of one size."),
    ("What is a ratio of 2 to 3?", "Two parts to three."),
    ("Which ratio is larger, 1 to 2 or 2 to 3?", "The second."),
    ("How is a ratio written as a fraction?", "The first number over the second."),
    ("What is a numerator?", "A numerator is the number above the line."),
    ("What is a denominator?", "A denominator is the number below the line."),
    ("What is a polygon?", "A polygon is a closed shape of straight lines."),
]
NAMES = ("fraction", "denominator", "numerator", "ratio", "polygon")
