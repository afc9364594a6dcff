"""config.json: released sizes, other writers' ways, and what is refused."""

import jax
import pytest

from hgpo_jax import types
from hgpo_jax.model import hf, registry, weights

# Of the released config.json files: width, feed-forward width, layers, query
# heads, key heads, vocabulary, tied; and the size in the model's card, 1e9.
RELEASED = {
  '0.5b': (896, 4_864, 24, 14, 2, 151_936, True, 0.49),
  '1.5b': (1_536, 8_960, 28, 12, 2, 151_936, True, 1.54),
  '3b': (2_048, 11_008, 36, 16, 2, 151_936, True, 3.09),
  '7b': (3_584, 18_944, 28, 28, 4, 152_064, False, 7.61),
  '14b': (5_120, 13_824, 48, 40, 8, 152_064, False, 14.7),
  '32b': (5_120, 27_648, 64, 40, 8, 152_064, False, 32.5),
  '72b': (8_192, 29_568, 80, 64, 8, 152_064, False, 72.7),
}


def released(name):
  """What the config.json of a released model holds, as far as it matters."""
  width, ff_width, layers, heads, kv_heads, vocab, tied, _ = RELEASED[name]
  return {
    'architectures': ['Qwen2ForCausalLM'],
    'attention_dropout': 0.0,
    'hidden_act': 'silu',
    'hidden_size': width,
    'intermediate_size': ff_width,
    'max_position_embeddings': 32768,
    'max_window_layers': 21,
    'model_type': 'qwen2',
    'num_attention_heads': heads,
    'num_hidden_layers': layers,
    'num_key_value_heads': kv_heads,
    'rms_norm_eps': 1e-06,
    'rope_theta': 1000000.0,
    'sliding_window': 32768,
    'tie_word_embeddings': tied,
    'torch_dtype': 'bfloat16',
    'use_sliding_window': False,
    'vocab_size': vocab,
  }


@pytest.mark.parametrize('name', RELEASED)
def test_released_sizes(name):
  model = weights.model_from_hf(released(name))
  if name in registry.presets():
    assert model == registry.preset(name)
  count = sum(leaf.size for leaf in jax.tree.leaves(model.param_shapes()))
  assert count / 1e9 == pytest.approx(RELEASED[name][-1], rel=0.01)


# The same of Qwen3, without the size of a head, which is 128.
RELEASED_QWEN3 = {
  'qwen3-0.6b': (1_024, 3_072, 28, 16, 8, True),
  'qwen3-1.7b': (2_048, 6_144, 28, 16, 8, True),
  'qwen3-4b': (2_560, 9_728, 36, 32, 8, True),
  'qwen3-8b': (4_096, 12_288, 36, 32, 8, False),
  'qwen3-14b': (5_120, 17_408, 40, 40, 8, False),
  'qwen3-32b': (5_120, 25_600, 64, 64, 8, False),
}


def released_qwen3(name):
  width, ff_width, layers, heads, kv_heads, tied = RELEASED_QWEN3[name]
  return {
    'architectures': ['Qwen3ForCausalLM'],
    'attention_bias': False,
    'head_dim': 128,
    'hidden_act': 'silu',
    'hidden_size': width,
    'intermediate_size': ff_width,
    'max_position_embeddings': 40960,
    'max_window_layers': layers,
    'model_type': 'qwen3',
    'num_attention_heads': heads,
    'num_hidden_layers': layers,
    'num_key_value_heads': kv_heads,
    'rms_norm_eps': 1e-06,
    'rope_scaling': None,
    'rope_theta': 1000000,
    'sliding_window': None,
    'tie_word_embeddings': tied,
    'torch_dtype': 'bfloat16',
    'use_sliding_window': False,
    'vocab_size': 151936,
  }


@pytest.mark.parametrize('name', RELEASED_QWEN3)
def test_released_sizes_of_qwen3(name):
  values = released_qwen3(name)
  model = weights.model_from_hf(values)
  assert model == registry.preset(name)
  assert registry.released(f'Qwen/Q{name[1:].upper()}-Base') == name
  written = hf.config_to_hf(model, 'bfloat16')
  same = values.keys() & written.keys() - {'max_position_embeddings'}
  assert {k: written[k] for k in same} == {k: values[k] for k in same}
  del values['head_dim']  # as in transformers, not the width over the heads
  assert weights.model_from_hf(values) == model


def test_variants_of_qwen3_that_are_not_implemented_are_refused():
  values = {**released_qwen3('qwen3-8b'), 'attention_bias': True}
  with pytest.raises(weights.WeightsError, match='attention_bias True'):
    weights.model_from_hf(values)
  mixture = {**values, 'model_type': 'qwen3_moe'}
  with pytest.raises(weights.WeightsError, match="model_type 'qwen3_moe'"):
    weights.model_from_hf(mixture)


@pytest.mark.parametrize(
  ('checkpoint', 'name'),
  [
    ('Qwen/Qwen2.5-3B-Instruct', '3b'),
    ('Qwen/Qwen2.5-0.5B', '0.5b'),
    ('Qwen/Qwen3-4B-Instruct-2507', 'qwen3-4b'),
  ],
)
def test_a_checkpoints_id_names_its_size(checkpoint, name):
  assert registry.released(checkpoint) == name


@pytest.mark.parametrize(
  'checkpoint', ['Qwen/Qwen2.5-14B', 'Qwen/Qwen3-30B-A3B', 'someone/tiny-3b']
)
def test_ids_of_other_sizes_are_refused(checkpoint):
  with pytest.raises(types.ConfigError, match='none of the sizes'):
    registry.released(checkpoint)


def test_fields_pass_through():
  model = weights.model_from_hf(released('1.5b'), dtype='float32', num_layers=2)
  config = model.config
  assert (config.dtype, config.num_layers) == ('float32', 2)


@pytest.mark.parametrize(
  ('change', 'base'),
  [
    ({}, 1e6),
    ({'rope_scaling': None, 'rope_theta': 1e4}, 1e4),
    ({'rope_parameters': {'rope_type': 'default', 'rope_theta': 3e4}}, 3e4),
    ({'rope_scaling': {'type': 'default'}}, 1e6),
  ],
)
def test_rope_base_wherever_it_stands(change, base):
  config = weights.model_from_hf({**released('0.5b'), **change}).config
  assert config.rope_base == base


def test_what_config_json_leaves_out_is_as_in_transformers():
  values = released('7b')
  for key in ('rope_theta', 'rms_norm_eps', 'tie_word_embeddings'):
    del values[key]
  values['num_key_value_heads'] = None
  config = weights.model_from_hf(values).config
  assert config.rope_base == 1e4
  assert config.norm_eps == 1e-6
  assert not config.tied_head
  assert config.num_kv_heads == config.num_heads == 28


@pytest.mark.parametrize(
  ('change', 'words'),
  [
    ({'architectures': ['LlamaForCausalLM']}, "['LlamaForCausalLM']"),
    ({'model_type': 'qwen3'}, "(expected ['Qwen3ForCausalLM'])"),
    (
      {'model_type': 'llama'},
      "model_type 'llama' (expected one of ['qwen2', 'qwen3'])",
    ),
    (
      {'rope_scaling': {'type': 'yarn', 'factor': 4.0}},
      "rope_type 'yarn' (expected 'default')",
    ),
    ({'rope_parameters': {'rope_type': 'linear'}}, "rope_type 'linear'"),
    (
      {'use_sliding_window': True},
      'layers with a sliding window 3 (expected 0)',
    ),
    ({'layer_types': ['sliding_attention']}, 'layers with a sliding window 1'),
    ({'hidden_act': 'gelu'}, "hidden_act 'gelu'"),
    ({'quantization_config': {'bits': 4}}, "{'bits': 4} (expected None)"),
    ({'num_attention_heads': 15}, 'num_heads=15 is no multiple'),
  ],
)
def test_variants_that_are_not_implemented_are_refused(change, words):
  with pytest.raises(weights.WeightsError) as error:
    weights.model_from_hf({**released('0.5b'), **change})
  assert words in str(error.value)


def test_all_reasons_are_listed_at_once():
  values = {
    **released('0.5b'),
    'hidden_act': 'gelu',
    'use_sliding_window': True,
  }
  del values['hidden_size'], values['vocab_size']
  with pytest.raises(weights.WeightsError) as error:
    weights.model_from_hf(values)
  for word in (
    'gelu',
    'a sliding window',
    "['vocab_size', 'hidden_size']",
    'Give the folder',
  ):
    assert word in str(error.value)


def test_window_that_no_layer_uses_is_accepted():
  values = {**released('0.5b'), 'use_sliding_window': True}
  assert weights.model_from_hf({**values, 'max_window_layers': 24})
