"""What measurements are to reach. `bench.py --check` fails when one of them does not."""

_found = []  # (met, text); met None: it was not measured


def at_most(what, value, limit):
    _found.append((value <= limit, f"{what}: {value:.2f}, at most {limit:g}"))


def at_least(what, value, limit):
    _found.append((value >= limit, f"{what}: {value:.2f}, at least {limit:g}"))


def unmeasured(what, why):
    _found.append((None, f"{what}: {why}"))


def report():
    """Prints all of them; how many were missed."""
    words = {True: "met", False: "MISSED", None: "not measured"}
    counts = {met: sum(1 for m, _ in _found if m is met) for met in words}
    print("\naims")
    for met, text in _found:
        print(f"  {words[met]:<12}  {text}")
    print(f"  {counts[True]} met, {counts[False]} missed, {counts[None]} not measured")
    return counts[False]
