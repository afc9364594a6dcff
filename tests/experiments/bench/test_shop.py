"""The shop's benchmark: its drawn catalogue, and that brute force agrees."""

import numpy as np

from envs.webshop.generate import generate_products
from envs.webshop.shop import document
from experiments.bench import shop


def test_drawn_texts_have_the_words_and_lengths_of_the_small_ones():
  small = list(generate_products(200, seed=0))
  drawn = list(shop.draw_products(small, 3000))
  assert len({product.asin for product in drawn}) == 3000

  def measures(products):
    texts = [document(product).split() for product in products]
    words = [word for text in texts for word in text]
    lengths = [len(text) for text in texts]
    return np.mean(lengths), np.std(lengths), words.count('linen') / len(words)

  np.testing.assert_allclose(measures(drawn), measures(small), rtol=0.1)


def test_brute_force_agrees(tmp_path):
  results = shop.run(tmp_path, 3000, steps=50)
  for name, products in (('small', 1000), ('large', 3000)):
    assert results[f'{name}_products'] == products
    assert results[f'{name}_searches_unlike_brute_force'] == 0
    assert results[f'{name}_searches'] == 156
