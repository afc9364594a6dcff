"""Catalogue files: what is read of good ones, and what is said of bad ones."""

import json

import pytest

from envs.webshop import catalog, files, generate
from envs.webshop.catalog import CatalogError


def entry(**changes):
  raw, about = generate.generate_entry(0, seed=0)
  return {**raw, **changes}, about


def write(folder, entries, about=None):
  """Writes both files and returns their paths."""
  paths = folder / 'items_shuffle.json', folder / 'items_ins_v2.json'
  named = {raw['asin']: known for raw, known in entries if 'asin' in raw}
  paths[0].write_text(json.dumps([raw for raw, _ in entries]))
  paths[1].write_text(json.dumps(named if about is None else about))
  return paths


def read(*paths, **options):
  return list(catalog.read_products(*paths, **options))


def test_written_catalogue_is_read_as_generated(tmp_path):
  paths = write(tmp_path, [generate.generate_entry(i, 5) for i in range(30)])
  expected = list(generate.generate_products(30, seed=5))
  assert read(*paths) == expected
  assert read(*paths, limit=7) == expected[:7]
  assert expected != list(generate.generate_products(30, seed=6))


@pytest.mark.parametrize(
  ('pricing', 'prices', 'tag'),
  [
    ('$12.5', (12.5,), '$12.5'),
    ('$1,299.00', (1299.0,), '$1299.0'),
    ('$3.99 - $10.99', (3.99, 10.99), '$3.99 to $10.99'),
    ('$1$2$3', (1.0, 2.0), '$1.0 to $2.0'),
    ('', (100.0,), '$100.0'),
    (None, (100.0,), '$100.0'),
  ],
)
def test_prices(tmp_path, pricing, prices, tag):
  product = read(*write(tmp_path, [entry(pricing=pricing)]))[0]
  assert (product.prices, product.price_tag) == (prices, tag)


def test_options_are_lower_case_with_spaced_slashes(tmp_path):
  options = {'Color': [{'value': ' Red/Blue '}, {'value': 'RED'}], 'Size': None}
  product = read(*write(tmp_path, [entry(customization_options=options)]))[0]
  assert product.options == {'color': ('red | blue', 'red')}


def test_entries_that_webshop_leaves_out(tmp_path):
  entries = [entry(asin='nan'), entry(asin='B' * 11), entry(asin='B1')]
  assert [x.asin for x in read(*write(tmp_path, entries))] == ['B1']


def test_people_s_instructions(tmp_path):
  written = {
    'instruction': 'a red one.',
    'instruction_attributes': ['soft'],
    'instruction_options': ['red'],
  }
  useless = {**written, 'instruction_attributes': []}
  human = tmp_path / 'human.json'
  human.write_text(json.dumps({'B1': [written, useless]}))
  product = read(*write(tmp_path, [entry(asin='B1')]), human)[0]
  assert product.human == (('a red one.', ('soft',), ('red',)),)


@pytest.mark.parametrize(
  ('changes', 'told'),
  [
    ({'name': None}, 'name is None'),
    ({'full_description': 3}, 'full_description is 3'),
    ({'pricing': 'cheap'}, "pricing is 'cheap'"),
    ({'pricing': '$cheap'}, "pricing is '$cheap'"),
    ({'pricing': '$1.2.3'}, 'expected'),
    ({'small_description': []}, 'small_description is []'),
    ({'small_description': [1]}, 'expected texts only'),
    ({'customization_options': [1]}, 'customization_options is [1]'),
    ({'customization_options': {'color': 'red'}}, "option 'color'"),
    ({'customization_options': {'color': [{}]}}, 'value is missing'),
    ({'customization_options': {'color': ['red']}}, "got 'red'"),
    ({'pricing': '$' + 400 * '9'}, "pricing is '$999"),
    ({'query': None}, 'query is None'),
  ],
)
def test_bad_field_is_told_with_file_and_product(tmp_path, changes, told):
  paths = write(tmp_path, [entry(asin='B0'), entry(asin='B1', **changes)])
  with pytest.raises(CatalogError) as error:
    read(*paths)
  for part in (str(paths[0]), 'product 1', 'B1', told):
    assert part in str(error.value)


@pytest.mark.parametrize('name', generate.generate_entry(0, seed=0)[0])
def test_a_missing_field_is_told_with_file_and_product(tmp_path, name):
  raw, about = entry(asin='B1')
  del raw[name]
  paths = write(tmp_path, [entry(asin='B0')], {'B0': about, 'B1': about})
  paths[0].write_text(json.dumps([entry(asin='B0')[0], raw]))
  if name == 'pricing':  # which WebShop lets be
    assert read(*paths)[1].prices == (100.0,)
    return
  with pytest.raises(CatalogError, match=f'product 1.*{name} is missing') as e:
    read(*paths)
  assert str(paths[0]) in str(e.value)


def test_duplicates(tmp_path):
  paths = write(tmp_path, [entry(asin='B1'), entry(asin='B1', query='other')])
  with pytest.raises(CatalogError, match=r'product 1 \(B1\).*twice'):
    read(*paths)
  kept = read(*paths, skip_duplicates=True)
  assert [product.query for product in kept] == [entry()[0]['query']]


@pytest.mark.parametrize(
  ('about', 'told'),
  [
    ({}, 'expected an object with attributes'),
    ({'B1': {'attributes': 'soft'}}, 'attributes'),
    ({'B1': {'instruction': 'x'}}, 'instruction_attributes is missing'),
    (
      {'B1': {'instruction': 'x', 'instruction_attributes': []}},
      'product B1: its instruction names no attribute',
    ),
    ([], 'expected a JSON object'),
  ],
)
def test_bad_attributes(tmp_path, about, told):
  paths = write(tmp_path, [entry(asin='B1')], about)
  with pytest.raises(CatalogError, match=told) as error:
    read(*paths)
  assert str(paths[1]) in str(error.value)


@pytest.mark.parametrize(
  'text', ['', '{}', '[', '[{"asin": "B', '[1, 2', '[]', 'x']
)
def test_broken_or_empty_lists(tmp_path, text):
  paths = write(tmp_path, [])
  paths[0].write_text(text)
  with pytest.raises(CatalogError, match=str(paths[0])):
    read(*paths)


def test_attributes_that_are_there_twice(tmp_path):
  paths = write(tmp_path, [entry(asin='B1')])
  text = paths[1].read_text()
  paths[1].write_text(f'{{"B1": {{}}, {text[1:]}')
  with pytest.raises(CatalogError, match="items_ins_v2.json: 'B1' is .* twice"):
    read(*paths)


def test_missing_files_and_bytes_that_are_no_text(tmp_path):
  paths = write(tmp_path, [entry()])
  with pytest.raises(CatalogError, match='nowhere'):
    read(tmp_path / 'nowhere', paths[1])
  paths[0].write_bytes(b'[{"asin": "\xff"}]')
  with pytest.raises(CatalogError, match='decode'):
    read(*paths)


def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path):
  paths = write(tmp_path, [entry(asin='B1')])
  for path in paths:
    path.write_text('\ufeff ' + path.read_text())
  assert [x.asin for x in read(*paths)] == ['B1']


@pytest.mark.parametrize('chunk', [1, 2, 3, 7, 1000])
def test_array_is_read_alike_in_any_chunks(tmp_path, monkeypatch, chunk):
  values = [{'a': [1, '],'], 'b': {}}, 12.5, 'x"]', [], None, -3]
  path = tmp_path / 'array.json'
  path.write_text(json.dumps(values, indent=1) + '\n')
  monkeypatch.setattr(files, '_CHUNK', chunk)
  assert list(files.read_array(path)) == values
