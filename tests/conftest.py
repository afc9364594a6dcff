"""Gives the whole suite eight devices, so that meshes are tested anywhere.

Code that names no mesh runs on the first of them, as if it were alone. What a
test starts as a process of its own has one device, as a user's has: this is no
environment variable.
"""

import jax

jax.config.update('jax_num_cpu_devices', 8)  # before JAX is first used
