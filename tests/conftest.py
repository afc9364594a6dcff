"""Gives the whole suite eight devices, so that meshes are tested anywhere.

Code that names no mesh runs on the first of them, as if it were alone. What a
test starts as a process of its own has one device, as a user's has: this is no
environment variable.

What XLA compiles is kept until the end of the session, for all of its
processes: many tests train the same small policy.
"""

import atexit
import os
import shutil
import tempfile

if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
  _compiled = tempfile.mkdtemp(prefix='compiled_')
  atexit.register(shutil.rmtree, _compiled, ignore_errors=True)
  os.environ['JAX_COMPILATION_CACHE_DIR'] = _compiled
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'

import jax  # noqa: E402  (it reads these variables when it is imported)

jax.config.update('jax_num_cpu_devices', 8)  # before JAX is first used
# A shape that fits by luck is a fault: `[L]` beside `[B, L]` is written out.
jax.config.update('jax_numpy_rank_promotion', 'raise')
