import os
import socket
import subprocess
import sys
import time

import pytest

from demask_hf.tasks import execution, isolation, run_program


needs_confinement = pytest.mark.skipif(
    not isolation()["files"], reason=f"needs namespaces of Linux: {execution._obstacle()}"
)
both_ways = pytest.mark.parametrize("confined", [pytest.param(True, marks=needs_confinement), False])
RIGHT = "def double(number):\n    return 2 * number\n"
TESTS = """
def check(candidate):
    assert candidate(2) == 4
    assert math.isclose(candidate(3), 6)


check(double)
"""


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("assert sum([1, 2]) == 3", "passed"),
        ("assert sum([1, 2]) == 4", "failed"),
        ("def f(:", "failed"),
        ("", "passed"),
        ("print('x' * 10**6)", "passed"),
        ("input()", "failed"),
        ("text = '\ud800'", "passed"),
        ("if __name__ != '__main__': raise ValueError", "passed"),
    ],
)
def test_a_program_passes_if_it_reaches_its_last_line(program, expected):
    assert run_program(program, confined=isolation()["files"]) == expected


@both_ways
def test_tests_decide(confined):
    assert run_program(RIGHT, TESTS, confined=confined) == "passed"
    assert run_program(RIGHT.replace("2 *", "3 *"), TESTS, confined=confined) == "failed"
    assert run_program("", TESTS, confined=confined) == "failed"


VALUES = [
    "None",
    "True",
    "0",
    "-7",
    "10**5000",
    "1.5",
    "float('inf')",
    "2j",
    "'text \\ud800'",
    "b'bytes'",
    "[1, [2, (3, [])]]",
    "{1, 2}",
    "frozenset({3})",
    "{(1, 2): {'a': None}}",
    "Decimal('1.10')",
    "Fraction(1, 3)",
    "deque([1, 2])",
]


def test_plain_values_pass_in_both_directions():
    imports = "from collections import deque\nfrom decimal import Decimal\nfrom fractions import Fraction\n"
    program = f"{imports}def same(value):\n    return value\nvalues = [{', '.join(VALUES)}]\n"
    tests = [f"assert same({value}) == {value}\nassert type(same({value})) is type({value})" for value in VALUES]
    tests.append(f"assert values == [{', '.join(VALUES)}]")
    assert run_program(program, imports + "\n".join(tests), confined=isolation()["files"]) == "passed"


PROGRAM_WITH_OBJECTS = """
class Node:
    def __init__(self, value, following=None):
        self.value, self.following = value, following

    def __len__(self):
        return 7


def total(node):
    return node.value + total(node.following) if node else 0


def squares(limit):
    yield from (number**2 for number in range(limit))


def refuse():
    raise ZeroDivisionError


def table():
    from collections import Counter
    return Counter("aab")
"""


@pytest.mark.parametrize(
    ("test", "expected"),
    [
        ("first = Node(1)\nfirst.following = Node(value=2)\nassert total(first) == 3", "passed"),
        ("assert Node(1).value == 1 and len(Node(1)) == 7", "passed"),
        ("first = Node(1)\nassert first == first and first != Node(1) and first != 1", "passed"),
        ("assert [node.value for node in [Node(1), Node(2)]] == [1, 2]", "passed"),
        ("assert list(squares(4)) == [0, 1, 4, 9] and set(squares(2)) == {0, 1}", "passed"),
        ("try:\n    refuse()\n    assert False\nexcept ZeroDivisionError:\n    pass", "passed"),
        ("try:\n    total(1, 2)\n    assert False\nexcept TypeError:\n    pass", "passed"),
        ("assert table() == {'a': 2, 'b': 1}", "passed"),
        ("import math\nassert math.isclose(total(None), 0)", "passed"),
        ("assert unknown(1)", "failed"),
        ("assert total(lambda: 1) == 0", "failed"),
    ],
)
def test_tests_use_the_names_of_the_program(test, expected):
    assert run_program(PROGRAM_WITH_OBJECTS, test, confined=isolation()["files"]) == expected


# Wrong programs that try to pass all the same; each stays wrong where it does nothing.
FORGERIES = {
    "exit": "import sys; sys.exit(0)",
    "exit at once": "import os; os._exit(0)",
    "exit with the status of a pass": "import os; os._exit(90)",
    "exit later": "def double(number):\n    import os; os._exit(90)",
    "raise SystemExit later": "def double(number):\n    raise SystemExit(90)",
    "always equal": "class Same(int):\n    def __eq__(self, other): return True\ndef double(number): return Same()",
    "always equal object": "class Same:\n    def __eq__(self, other): return True\n"
    "    def __ne__(self, other): return False\ndef double(number): return Same()",
    "patched builtins": "import builtins\nbuiltins.AssertionError = None\nbuiltins.print = None\n"
    "builtins.isinstance = lambda *_: True\ndef double(number): return None",
    "replaced check": "def check(candidate): pass\ndef double(number): return None",
    "its own library": "class math:\n    isclose = lambda *_: True\ndef double(number): return 0",
    "frames": "import sys\ndef double(number):\n    frame = sys._getframe()\n    while frame:\n"
    "        for name, value in {**frame.f_globals, **frame.f_locals}.items():\n"
    "            if name in ('PASSED', 'NOT_CONFINED'): import os; os._exit(value)\n"
    "        frame = frame.f_back",
    "objects of the collector": "import gc, os\ndef double(number):\n    for found in gc.get_objects():\n"
    "        if isinstance(found, dict) and 'PASSED' in found: os._exit(found['PASSED'])",
    "trace of the judge": "import sys\nsys.settrace(lambda *_: None)\nsys.setprofile(lambda *_: None)\n"
    "def double(number): return None",
    "exit handlers": "import atexit, os\natexit.register(os._exit, 90)\ndef double(number): raise KeyboardInterrupt",
    "printed verdict": "print('passed')\nimport sys\nsys.stderr.write('passed')\ndef double(number): return None",
    "its own answers": "import os\nfor number in range(3, 20):\n"
    "    try: os.write(number, b'passed\\n[true, null]\\n' * 9)\n    except OSError: pass\n"
    "def double(number): return None",
    "a tuple as its own answer": "import os\n"
    'answer = b\'{"type": "tuple", "value": [true, {"type": "dict", "value": '
    '[["double", 4], ["check", 4], ["print", 4]]}]}\\n\'\nfor number in range(3, 20):\n'
    "    try: os.write(number, answer * 9)\n    except OSError: pass",
    "swallowed error": "class Odd(Exception): pass\ndef double(number): raise Odd",
    "another process": "import os\nif os.fork(): os._exit(90)\ndef double(number): return None",
    "text that is too long": "def double(number): return 'x' * 2**25",
    "nested too deeply": "def double(number):\n    found = []\n"
    "    for _ in range(10**5): found = [found]\n    return found",
}


@both_ways
@pytest.mark.parametrize("forgery", FORGERIES.values(), ids=FORGERIES)
def test_forgeries_are_no_pass(forgery, confined):
    assert run_program(forgery, TESTS, confined=confined) == "failed"


@needs_confinement
@pytest.mark.parametrize("catching", ["except Exception:", "except:"])
def test_a_program_that_ends_passes_no_test_that_expects_an_error(catching):
    tests = f"try:\n    double(1)\n    assert False, 'no error'\n{catching}\n    pass\n"
    assert run_program("def double(number):\n    raise ValueError", tests) == "passed"
    assert run_program("import os\ndef double(number):\n    os._exit(0)", tests) == "failed"


@needs_confinement
def test_a_program_does_not_see_what_a_test_expects():
    # All that it can read: its memory, its files, its arguments and its environment.
    program = (
        "import gc, os, sys\n"
        "def sees(number, *others):\n"
        "    seen = [repr(os.environ), repr(sys.argv), repr(sys.orig_argv), os.getcwd()]\n"
        "    seen += [repr(found) for found in gc.get_objects() if isinstance(found, (dict, list, tuple))]\n"
        "    os.lseek(0, 0, 0)\n"
        "    seen.append(os.read(0, 10**6).decode())\n"
        "    backwards = str(number)[::-1]\n"
        "    return any(backwards in text for text in seen)\n"
    )
    assert run_program(program, "expected = 987654321\nassert sees(123456789) is False") == "passed"
    assert run_program(program, "assert sees(123456789, [987654321]) is True") == "passed"


@needs_confinement
def test_a_program_sees_no_other_processes():
    tests = "assert seen() == [1]\nassert not has_proc()"
    program = (
        "import os\n"
        "def seen():\n"
        "    found = []\n"
        "    for pid in range(1, 100000):\n"
        "        try: os.kill(pid, 0)\n"
        "        except OSError: continue\n"
        "        found.append(pid)\n"
        "    return found\n"
        "def has_proc(): return os.path.exists('/proc')\n"
    )
    assert run_program(program, tests) == "passed"


@needs_confinement
def test_a_program_reads_and_writes_no_files_of_yours(tmp_path):
    secret, other = tmp_path / "secret", tmp_path / "other"
    secret.write_text("mine")
    program = (
        "import os\n"
        "def read(path): return open(path).read()\n"
        "def write(path): return open(path, 'w').write('x')\n"
        "def root(): return set(os.listdir('/'))\n"
    )
    refused = "try:\n    {}\n    raise SystemExit\nexcept OSError:\n    pass\n"
    paths = [str(other), __file__, "/usr/new", "/new", "/etc/new", "/dev/new", sys.executable, f"{sys.prefix}/new"]
    tests = [refused.format(f"read({path!r})") for path in (str(secret), __file__, "/etc/passwd", "/etc/shadow")]
    tests += [refused.format(f"write({path!r})") for path in paths]
    tests.append(
        "assert write('own') == 1 and read('own') == 'x'\nassert 'home' not in root() and 'proc' not in root()"
    )
    assert run_program(program, "".join(tests)) == "passed"
    assert secret.read_text() == "mine"
    assert not other.exists()


@needs_confinement
def test_a_program_reaches_no_socket(tmp_path, monkeypatch):
    # Paths of sockets are short.
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as by_path, socket.socket(socket.AF_UNIX) as by_name:
        by_path.bind("socket")
        by_path.listen()
        name = f"\0{tmp_path.name}-{os.getpid()}"
        by_name.bind(name)
        by_name.listen()
        program = (
            "import socket\n"
            f"for address in ({str(tmp_path / 'socket')!r}, {name!r}):\n"
            "    try: socket.socket(socket.AF_UNIX).connect(address)\n"
            "    except OSError: continue\n"
            "    raise SystemExit\n"
        )
        assert run_program(program) == "passed"
        assert run_program(program, confined=False) == "failed"


@needs_confinement
def test_there_is_no_network():
    program = (
        "import socket\n"
        "with socket.create_server(('127.0.0.1', 0)) as server:\n"
        "    socket.create_connection(server.getsockname(), timeout=2)"
    )
    # Even the loopback device of the namespace is down; the same program works outside.
    assert run_program(program) == "failed"
    exec(program, {})


@needs_confinement
def test_a_program_has_no_rights_to_lose():
    program = (
        "import ctypes, os, resource\n"
        "libc = ctypes.CDLL(None)\n"
        "def ids(): return os.getuid(), os.geteuid(), os.getgroups()\n"
        "def become_root(): os.setuid(0)\n"
        "def lift(): resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)\n"
        "def remount(): return libc.mount(b'none', b'/usr', None, 32 | 4096, None)\n"
        "def remount_in_a_namespace_of_its_own(): return libc.unshare(0x10020000) or remount()\n"
        "def leave(): return libc.chroot(b'.')\n"
    )
    user = 65534 if os.geteuid() == 0 else os.geteuid()
    refused = "try:\n    {}()\n    raise SystemExit\nexcept (OSError, ValueError):\n    pass\n"
    tests = f"assert ids()[:2] == ({user}, {user})\n" + refused.format("lift")
    tests += refused.format("become_root") if user else ""
    tests += "assert remount() == -1 and leave() == -1 and remount_in_a_namespace_of_its_own() != 0\n"
    if os.geteuid() == 0:
        tests += "assert ids()[2] == []\n"
    assert run_program(program, tests) == "passed"


@needs_confinement
def test_processes_are_limited_also_for_root():
    program = "import os, time\nfor _ in range(1000):\n    if os.fork() == 0: time.sleep(60)"
    assert run_program(program, timeout_seconds=30.0) == "failed"


@both_ways
def test_an_endless_loop_times_out(confined):
    started = time.monotonic()
    assert run_program("while True: pass", timeout_seconds=0.6, confined=confined) == "timed out"
    assert run_program("import time; time.sleep(600)", timeout_seconds=0.6, confined=confined) == "timed out"
    assert run_program("", "while True: pass", timeout_seconds=0.6, confined=confined) == "timed out"
    # Far from the length of the sleep, also on a busy machine.
    assert time.monotonic() - started < 300


def test_output_without_end_is_thrown_away():
    program = "import sys\nwhile True:\n    print('x' * 10**6)\n    sys.stderr.write('x' * 10**6)"
    assert run_program(program, timeout_seconds=1.0, confined=isolation()["files"]) == "timed out"


@pytest.mark.skipif(not isolation()["memory"], reason="needs the limits of Linux on address space")
@both_ways
def test_a_program_that_takes_too_much_memory_fails(confined):
    program = "held = bytearray(300 * 2**20)"
    assert run_program(program, memory_bytes=2**28, confined=confined) == "failed"
    assert run_program(program, memory_bytes=2**30, confined=confined) == "passed"


@both_ways
def test_files_land_in_a_folder_that_is_gone_afterwards(confined, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    program = (
        "import os, tempfile\n"
        "open('left.txt', 'w').write('x')\n"
        "assert tempfile.gettempdir() == os.getcwd() == os.environ['HOME']\n"
        "assert os.listdir() == ['left.txt']\n"
    )
    (tmp_path / "folders").mkdir()
    monkeypatch.setattr(execution.tempfile, "tempdir", str(tmp_path / "folders"))
    assert run_program(program, confined=confined) == "passed"
    assert run_program("import time; time.sleep(600)", timeout_seconds=0.5, confined=confined) == "timed out"
    assert os.listdir(tmp_path) == ["folders"]
    assert os.listdir(tmp_path / "folders") == []


@both_ways
def test_files_stay_below_their_limit(confined):
    assert run_program("open('large', 'wb').write(bytes(64 * 2**20))", confined=confined) == "failed"


@needs_confinement
def test_the_folder_stays_below_its_limit():
    program = "for number in range(10):\n    with open(str(number), 'wb') as file: file.write(bytes(15 * 2**20))"
    assert run_program(program) == "failed"


@both_ways
def test_the_environment_and_the_working_folder_of_the_parent_are_not_there(confined, monkeypatch, tmp_path):
    monkeypatch.setenv("SECRET", "value")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "neighbour.py").write_text("")
    assert run_program("import os\nassert 'SECRET' not in os.environ", confined=confined) == "passed"
    assert run_program("import neighbour", confined=confined) == "failed"


def test_the_parent_runs_nothing_of_it():
    program = "import sys\nsys.modules['demask_hf_was_here'] = sys"
    assert run_program(program, program, confined=isolation()["files"]) == "passed"
    assert "demask_hf_was_here" not in sys.modules


def _sleeper(name, leaves_session):
    """Return a program that starts a process with a name of its own, and waits."""
    sleep = f"import time; print('started', flush=True); time.sleep(600) # {name}"
    return sleep, (
        "import subprocess, sys, time\n"
        f"options = {{'start_new_session': {leaves_session}, 'stdout': subprocess.PIPE}}\n"
        f"child = subprocess.Popen([sys.executable, '-c', {sleep!r}], **options)\n"
        "if child.stdout.readline(): time.sleep(600)"
    )


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs the list of processes of Linux")
@pytest.mark.parametrize(
    ("confined", "leaves_session"),
    [
        pytest.param(True, True, marks=needs_confinement),
        pytest.param(True, False, marks=needs_confinement),
        (False, False),
    ],
)
def test_what_a_program_leaves_running_ends_with_it(confined, leaves_session, tmp_path):
    sleep, program = _sleeper(tmp_path, leaves_session)
    assert run_program(program, timeout_seconds=2.0, confined=confined) == "timed out"
    _wait_until(lambda: not _is_running(sleep))


@needs_confinement
def test_a_program_ends_when_the_process_that_judges_is_killed(tmp_path):
    sleep, program = _sleeper(tmp_path, leaves_session=True)
    # Without the rest of the package, whose import takes seconds.
    call = "import sys, types\n"
    for name in ("demask_hf", "demask_hf.tasks"):
        call += f"sys.modules[{name!r}] = types.ModuleType({name!r})\n"
        call += f"sys.modules[{name!r}].__path__ = {list(sys.modules[name].__path__)!r}\n"
    call += f"from demask_hf.tasks.execution import run_program\nrun_program({program!r}, timeout_seconds=500)"
    parent = subprocess.Popen([sys.executable, "-c", call])
    try:
        _wait_until(lambda: _is_running(sleep) or parent.poll() is not None)
        assert parent.poll() is None
    finally:
        parent.kill()
        parent.wait()
    _wait_until(lambda: not _is_running(sleep))


def _wait_until(condition):
    # A killed process needs a moment to be gone, on a busy machine more than one.
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _is_running(text):
    """Return whether a process of Python with this text as its program is running."""
    return any(text in line and line.split("\0")[2:3] == [text] for line in _command_lines())


def _command_lines():
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline") as file:
                yield file.read()
        except OSError:
            continue


def test_isolation_says_what_is_guarded(monkeypatch):
    assert set(isolation()) == {"time", "memory", "network", "processes", "files"}
    assert isolation()["time"]
    monkeypatch.setattr(execution, "_obstacle", lambda: "no namespaces")
    guarded = isolation()
    assert not any(guarded[name] for name in ("network", "processes", "files"))


def test_programs_are_refused_where_they_cannot_be_confined(monkeypatch):
    monkeypatch.setattr(execution, "_obstacle", lambda: "unshare: Operation not permitted")
    with pytest.raises(OSError, match=r"^programs must be confined, and .* \(unshare: Operation not permitted\); "):
        run_program("assert True")
    assert run_program("assert True", confined=False) == "passed"
    assert run_program("assert False", confined=False) == "failed"


def test_the_obstacle_is_found_by_trying(monkeypatch):
    monkeypatch.setattr(execution.sys, "platform", "darwin")
    assert execution._obstacle.__wrapped__() == "it needs Linux, got darwin"
    monkeypatch.undo()
    if sys.platform == "linux":
        monkeypatch.setattr(execution, "_COMMAND", ("-c", "import sys; sys.exit('no rights')"))
        assert execution._obstacle.__wrapped__() == "no rights"


@needs_confinement
def test_a_lost_right_to_confine_is_no_failure_of_the_program(monkeypatch):
    execution._obstacle()
    command = (*execution._COMMAND[:2], execution._COMMAND[2].replace("main()", "import os; os._exit(91)"))
    monkeypatch.setattr(execution, "_COMMAND", (*command, execution._COMMAND[3]))
    with pytest.raises(OSError, match=r"^programs must be confined, and this system does not allow it any more\.$"):
        run_program("")
    monkeypatch.undo()
    # A program cannot claim it.
    assert run_program("import os; os._exit(91)") == "failed"


def test_wrong_arguments_are_refused(monkeypatch):
    for wrong in (0, -1.0, float("nan"), float("inf"), "1", True):
        with pytest.raises(ValueError, match=r"`timeout_seconds` must be a number in \(0, inf\), got "):
            run_program("", timeout_seconds=wrong)
    with pytest.raises(ValueError, match=r"`memory_bytes` must be an integer of at least 1, got 0\."):
        run_program("", memory_bytes=0)
    monkeypatch.setattr("demask_hf.tasks.execution.os.name", "nt")
    with pytest.raises(OSError, match=r"programs must be run on a system with limits for processes, got nt\."):
        run_program("")
