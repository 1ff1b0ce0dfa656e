"""What runs outside of this process: a model's program in one process, and the tests that judge it in another.

`execution` starts both; they share nothing but a socket. `process.py` is where each begins, `namespaces.py` shuts it
in, `roles.py` is what it then does, and `values.py` is how the two talk. Only the standard library is used, because
the processes import this folder as a package of its own.
"""
