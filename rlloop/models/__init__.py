"""Networks of the generator, and the generator as the loop sees it."""
