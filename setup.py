"""Packaging; constraints.txt holds the exact set that was tested."""

import pathlib

from setuptools import find_packages, setup

setup(
  name='hgpo_jax',
  version='0.5.0',
  description='Hierarchy-of-Groups Policy Optimization for LLM agents, in JAX',
  long_description=pathlib.Path(__file__).with_name('README.md').read_text(),
  long_description_content_type='text/markdown',
  license='Apache-2.0',
  python_requires='>=3.11',
  packages=find_packages(
    include=['hgpo_jax*', 'envs*', 'experiments*', 'launch*']
  ),
  package_data={'hgpo_jax': ['py.typed'], 'envs': ['py.typed']},
  install_requires=[
    'absl-py>=2.1',
    'alfworld>=0.4.2',
    'chex>=0.1.88',
    'flax>=0.12',
    'grpcio>=1.66',
    'huggingface_hub>=0.26',
    'jax>=0.7',
    'jinja2>=3.1',
    'matplotlib>=3.9',
    'ml_collections>=1.0',
    'msgpack>=1.0.8',
    'msgspec>=0.19',
    'numpy>=2.0',
    'optax>=0.2.4',
    'orbax-checkpoint>=0.12',
    'pandas>=2.2',
    'pyyaml>=6.0',
    'regex>=2024.5',
    'safetensors>=0.8',
    'scipy>=1.13',
    'tensorboardX>=2.6',
    'tokenizers>=0.21',
    'tqdm>=4.66',
    'transformers>=4.50',
  ],
  extras_require={
    'cuda': ['jax[cuda12]>=0.7'],
    'tpu': ['jax[tpu]>=0.7'],
    'test': ['mypy>=1.13', 'pytest>=8.0', 'pytest-xdist>=3.6', 'ruff>=0.8'],
  },
)
