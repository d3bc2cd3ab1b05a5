"""Which scripts can be imported for their function; how the driver's import path is read."""

from __future__ import annotations

import importlib.util
import sys
import sysconfig
import types
from pathlib import Path

import pytest

from queue_eval.errors import FunctionError
from queue_eval.function import driver_path, driver_script
from queue_eval.function.loading import load
from queue_eval.function.reference import FunctionName, describe
from queue_eval.function.user_code import combine, digest_file, is_installed

GUARD = "if __name__ == '__main__':\n    CALL()\n"
FUNCTION = "def run(config):\n    return config\n"


@pytest.fixture
def main(monkeypatch, tmp_path):
    """Runs a text as the script of this process: `main(text)` gives what its guard asked for."""

    def run(text: str) -> object:
        file = tmp_path / "search.py"
        file.write_text(text)
        module = types.ModuleType("__main__")
        module.__file__ = str(file)
        found: list[object] = []
        module.CALL = lambda: found.append(driver_script.find_script(module.run, "run"))
        monkeypatch.setitem(sys.modules, "__main__", module)
        exec(compile(text, str(file), "exec"), module.__dict__)
        return found[0]

    return run


def using(name: str) -> str:
    """A function that uses this global."""
    return FUNCTION.replace("return", f"{name};")


def guarded(statement: str) -> str:
    return GUARD.replace("CALL()", f"{statement}; CALL()")


OBJECT = "class C:\n    def __init__(self): self.n = 1; self.x = {'y': {}}\n    def f(self): pass\n"
LAZY = "MODEL = None\ndef make():\n    global MODEL\n    MODEL = 1\n"


@pytest.mark.parametrize(
    "text",
    [
        FUNCTION + GUARD,
        FUNCTION + GUARD.replace("==", "=='__main__' and __name__ =="),
        FUNCTION + GUARD.replace("__name__ == '__main__'", "'__main__' == __name__"),
        "X = 1\n" + using("X") + GUARD,
        "def begin():\n    CALL()\n" + FUNCTION + GUARD.replace("CALL", "begin"),
        LAZY + using("make, MODEL") + GUARD,
        "import functools\n@functools.lru_cache\n" + FUNCTION + GUARD,
        "from os.path import *\n" + using("join") + GUARD,
        "try:\n    import numpy\nexcept ImportError:\n    numpy = None\n" + using("numpy") + GUARD,
        FUNCTION + GUARD + "else:\n    WHERE = 'a worker'\n",
        # What the guard only reads, or has left as it was.
        "S = {'x': [1]}\n" + using("S") + guarded("S['x'].append(2); S['x'].pop()"),
        "S = object\n" + using("S") + guarded("print(S); s = {'a': S}"),
        OBJECT + "S = C()\n" + using("S") + guarded("print(S); len(S.x); int(S.n); repr(S.n)"),
        OBJECT + "S = C()\n" + using("S") + guarded("d = dict(n=S.n); d.update(m=S.n)"),
        "import random\nS = random.Random()\n" + using("S") + guarded("S.random()"),
        "import logging\nS = logging.getLogger()\n" + using("S") + guarded("S.info('')"),
        FUNCTION + guarded("f = run; print(f)"),
        "S = [[[{} for _ in range(99)] for _ in range(99)] for _ in range(99)]\n" + using("S") + GUARD,
        # What the jobs do is no change of the guard's.
        "S = {}\ndef keep(x):\n    S[x] = set()\n" + using("S, keep(1)") + GUARD,
        OBJECT + "S = C()\n" + using("S.f()") + guarded("print(run)"),
    ],
)
def test_scripts_that_can_be_imported(main, text):
    found = main(text)
    assert found is not None
    assert (found.spec, len(found.digest)) == ("", 16)


@pytest.mark.parametrize(
    "text",
    [
        FUNCTION + "CALL()\n",
        FUNCTION + "if __name__ != '__mp_main__':\n    CALL()\n",
        FUNCTION + "if __name__ == '__main__':\n    pass\nCALL()\n",
        FUNCTION + guarded("run = run"),
        using("X") + guarded("X = 1"),
        "X = 0\n" + using("X") + guarded("X = 1"),
        "X = 0\ndef inner():\n    return X\n" + using("inner()") + guarded("X = 1"),
        LAZY + using("MODEL") + guarded("make()"),
        guarded("run = lambda config: 1"),
        # What the guard may change in place.
        "S = {'x': 1}\n" + using("S") + guarded("S['x'] = 2"),
        "S = {'x': 1}\n" + using("S") + guarded("S['x'] = True"),
        "S = [1]\n" + using("S") + guarded("S.append(2)"),
        "S = {'x': [1]}\n" + using("S") + guarded("x = S['x']; x.append(2)"),
        "S = {'x': 1}\ndef choose():\n    S.update(x=2)\n" + using("S") + guarded("choose()"),
        "S = set()\ndef choose(s):\n    s.add(2)\n" + using("S") + guarded("choose(S)"),
        OBJECT + using("C") + guarded("C.n = 2"),
        OBJECT + using("C") + guarded("setattr(C, 'n', 2)"),
        OBJECT + "S = C()\n" + using("S") + guarded("S.n = 2"),
        OBJECT + "S = C()\n" + using("S") + guarded("S.f()"),
        OBJECT + "S = C()\n" + using("S") + guarded("[S.x].pop()['y'] = 3"),
        FUNCTION + guarded("run.scale = 2"),
        "S = 1\n" + using("S") + guarded("globals()['S'] = 2"),
        "S = 1\n" + using("S") + guarded("globals().update(S=2)"),
        "S = 1\n" + using("S") + guarded("exec('S = 2')"),
        "S = {}\nT = S\n" + using("S") + guarded("T['x'] = 2"),
        OBJECT + "S = C()\n" + using("S") + guarded("C.n = 2"),
        # What only looks as if it were not reached.
        "S = 0\nclass A:\n    def f(self): return S\nB = A()\n" + using("B.f()") + guarded("S = 1"),
        "S = 0\nclass A:\n    def f(self): return S\nclass B(A): pass\n" + using("B") + guarded("S = 1"),
        "S = 0\ndef f(): return S\nALL = {'f': f}\n" + using("ALL['f']()") + guarded("S = 1"),
        "S = 0\nclass A:\n    f = staticmethod(lambda: S)\n" + using("A.f()") + guarded("S = 1"),
        "S = 0\ndef f(): return S\ndef g(h=f): return h()\n" + using("g()") + guarded("S = 1"),
        "S = 0\ndef f(g): return lambda x: g(x) + S\n@f\ndef h(x): return x\n" + using("h(1)")
        + guarded("S = 1"),
        "S = 0\ndef f(): return S\ndef g(h): return lambda: h()\nf = g(f)\n" + using("f()")
        + guarded("S = 1"),
    ],
)
def test_scripts_that_cannot(main, text):
    assert main(text) is None


def test_the_import_path_is_that_of_the_driver(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    scripts, packages = sysconfig.get_path("scripts"), sysconfig.get_path("purelib")
    monkeypatch.setattr(sys, "path", [scripts, "", "../lib", "/a.zip", packages, "/behind", "/a.zip"])
    path, folders = driver_path.import_path()
    assert path == [str(tmp_path), f"{tmp_path}/../lib", "/a.zip", packages, "/behind"]
    assert folders == [str(tmp_path), f"{tmp_path}/../lib", "/a.zip", "/behind"]
    assert driver_path.import_path("/first")[0][0] == "/first"


def test_modules_from_elsewhere_are_pinned(monkeypatch, tmp_path):
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "of_pins.py").write_text("def run(config): return __file__\n")
    monkeypatch.syspath_prepend(str(tmp_path / "here"))
    file = tmp_path / "there" / "of_pins.py"
    spec = importlib.util.spec_from_file_location("of_pins", file)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "of_pins", module)
    spec.loader.exec_module(module)
    reference = describe(module.run)
    assert reference.payload is None
    assert reference.code["pins"]["of_pins"] == str(file)
    assert describe("of_pins:run").code["pins"]["of_pins"] == str(file)
    named = describe(FunctionName("of_pins:run", str(tmp_path / "here")))
    assert (named.name, named.code["pins"]) == ("of_pins:run", {})


def test_a_name_in_a_folder_without_init(monkeypatch, tmp_path):
    """It is found without being imported, nor what is above it."""
    (tmp_path / "of_space" / "inner").mkdir(parents=True)
    (tmp_path / "of_space" / "inner" / "deep.py").write_text("1 / 0\ndef run(config): return 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    reference = describe("of_space.inner.deep:run")
    assert reference.code["file"] == str(tmp_path / "of_space" / "inner" / "deep.py")
    assert len(reference.source) == 8
    assert "of_space" not in sys.modules


def test_what_nobody_can_import_goes_by_value(monkeypatch):
    module = types.ModuleType("of_hand")
    exec("def helper(): return 5\ndef run(config): return helper()", module.__dict__)
    monkeypatch.setitem(sys.modules, "of_hand", module)
    reference = describe(module.run)
    assert reference.payload is not None
    monkeypatch.delitem(sys.modules, "of_hand")
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert load("of_hand:run", reference.payload, ())({}) == 5


def test_modules_that_are_to_travel_by_value_do(monkeypatch, tmp_path):
    import cloudpickle

    (tmp_path / "of_registry.py").write_text("def helper(): return 6\ndef run(config): return helper()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import of_registry

    assert describe(of_registry.run).payload is None
    cloudpickle.register_pickle_by_value(of_registry)
    try:
        payload = describe(of_registry.run).payload
    finally:
        cloudpickle.unregister_pickle_by_value(of_registry)
    monkeypatch.delitem(sys.modules, "of_registry")
    (tmp_path / "of_registry.py").unlink()
    importlib.invalidate_caches()
    assert load("of_registry:run", payload, ())({}) == 6


def test_another_python_is_refused_before_anything_is_unpickled(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    code = {"python": "pypy 3.10", "pins": {}, "script": None}
    with pytest.raises(FunctionError, match=r"f travels by value from Python pypy 3\.10, and"):
        load("__main__:f", b"no pickle", (), None, code)


def test_a_script_that_is_not_here(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    script = {"file": "/no/such/search.py", "digest": "", "spec": "", "argv": []}
    code = {"python": "x", "prefix": "y", "path": [], "pins": {}, "script": script, "exact": True}
    with pytest.raises(FunctionError, match=r"runs from its script /no/such/search\.py, which is not here"):
        load("__main__:run", None, (), None, code)


@pytest.mark.parametrize("where", ["global", "closure", "default"])
def test_generators_of_libraries_are_known_by_their_names(where):
    """Torch is not imported for it, nor need it be there."""
    kind = type("Generator", (), {"__module__": "torch._C"})
    space = {"__name__": "__main__", "G": kind()}
    text = {
        "global": "def run(config): return G",
        "closure": "def make(g):\n    def run(config): return g\n    return run\nrun = make(G)",
        "default": "def run(config, g=G): return g",
    }[where]
    exec(text, space)
    name = "G"
    if where != "global":
        del space["G"]
        name = "one of its values"
    with pytest.warns(UserWarning, match=f"travels by value with {name}, a random generator"):
        describe(space["run"])


def test_what_is_installed():
    import cloudpickle

    assert is_installed(cloudpickle.__file__)
    assert is_installed(Path.__module__ and sysconfig.__file__)
    assert is_installed(driver_path.__file__)
    assert is_installed("<string>")
    assert not is_installed(__file__)


def test_large_files_are_known_by_their_size_and_ends(tmp_path):
    file = tmp_path / "module.so"
    digests = set()
    for text in (b"a" * 5_000_000, b"a" * 5_000_001, b"b" + b"a" * 4_999_999, b"a" * 4_999_999 + b"b"):
        file.write_bytes(text)
        digests.add(digest_file(str(file)))
    assert len(digests) == 4


def test_sources_do_not_know_places():
    files = {"a": ["/x/a.py", "1"], "b": ["/x/b.py", "2"]}
    moved = {"b": ["/y/b.py", "2"], "c": ["/z/a.py", "1"]}
    assert combine("f", (), files) == combine("f", (), moved)
    assert combine("f", (), files) != combine("f", ("3",), files)
    assert combine("f", (), {}) == "f"


def test_what_classes_hold_goes_by_value(monkeypatch, main):
    """A property that is cached, and classes within classes, which are then found by their names."""
    text = (
        "import functools, pickle\nclass A:\n    @functools.cached_property\n    def p(self): return 5\n"
        "    class B:\n        class C: pass\nclass D: pass\nclass E:\n    alias = D\n    D = D\n"
        "def run(config):\n    pickle.loads(pickle.dumps([A.B(), A.B.C(), E(), D()]))\n"
        "    return [A().p, A.B.C.__qualname__, E.alias.__qualname__]\nCALL()\n"
    )
    assert main(text) is None
    reference = describe(sys.modules["__main__"].run)
    monkeypatch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))
    function = load(reference.name, reference.payload, (), None, reference.code | {"exact": False})
    assert function({}) == [5, "A.B.C", "D"]
