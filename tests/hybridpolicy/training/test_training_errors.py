"""The error tree is the one its module draws, and unknown names are answered with the nearest."""

import inspect

from hybridpolicy import errors


def test_the_drawn_tree_is_the_real_one():
    classes = [cls for _, cls in inspect.getmembers(errors, inspect.isclass)]
    classes = [cls for cls in classes if issubclass(cls, errors.HybridPolicyError)]
    assert len(classes) >= 8
    lines = errors.__doc__.splitlines()
    drawn = {line.split("── ")[1].split()[0]: line.index("──") for line in lines if "── " in line}
    assert drawn.keys() == {cls.__name__ for cls in classes}
    for cls in classes:
        parent = next(base for base in cls.__mro__[1:] if issubclass(base, Exception))
        assert drawn[cls.__name__] - drawn.get(parent.__name__, drawn["HybridPolicyError"] - 4) == 4
        for builtin in (ValueError, ArithmeticError):
            line = next(line for line in lines if cls.__name__ in line)
            assert issubclass(cls, builtin) == (f"also {builtin.__name__}" in line)


def test_allowed_names_the_nearest_first():
    assert errors.allowed("jiont", ("vla", "joint")) == "did you mean 'joint'? allowed are joint, vla"
    assert errors.allowed("xyz", ("vla", "joint")) == "allowed are joint, vla"
    assert errors.allowed("xyz", ()) == "nothing is allowed here"
