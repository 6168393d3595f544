"""The parts of the benchmark, one file each, and what their options have in common."""


def numbers(text):
    """The value of an option, as in "1,2,8" or "1e5,1e6"; empty for none."""
    return [int(float(word)) for word in text.split(",") if word]
