"""What is said in a made-up shop: for benchmarks."""

_TEXT = """a the red blue large small shirt shoe lamp table price dollars rating stars sold by color size buy now back
to search page next item description features reviews cotton wooden steel classic modern style free shipping option
select ships from warehouse in two days returns accepted"""
WORDS = _TEXT.split()
