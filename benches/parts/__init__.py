"""The parts of the benchmark, one file each, and what their options have in common."""


def numbers(text):
    """The value of an option, as in "1,2,8" or "1e5,1e6"; empty for none."""
    return [int(float(word)) for word in text.split(",") if word]


def turns(options, names):
    """Each of them once a round, with the round's number; whoever was first is last in the next one."""
    for number in range(options.rounds):
        for name in list(names)[::1 if number % 2 == 0 else -1]:
            yield number, name
