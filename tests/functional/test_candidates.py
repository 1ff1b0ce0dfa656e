import torch
from hypothesis import given
from hypothesis import strategies as st

from demask_hf.functional.candidates import CandidateIndex


@given(st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=4))
def test_the_index_finds_every_place_once_in_order(rows):
    mask = torch.tensor(rows)
    index = CandidateIndex.of(mask)
    assert torch.stack([index.rows, index.columns], dim=-1).tolist() == mask.nonzero().tolist()
    assert index.host_active == index.active.tolist() == mask.any(dim=-1).nonzero().squeeze(-1).tolist()
    assert index.active[index.ranks].tolist() == index.rows.tolist()
    assert index.width == mask.sum(dim=-1).max()
    packed = index.padded(index.columns + 1)
    assert packed.shape == (len(index.host_active), index.width)
    for rank, row in enumerate(index.host_active):
        columns = mask[row].nonzero().squeeze(-1).tolist()
        assert [column - 1 for column in packed[rank].tolist() if column] == columns
        assert (index.first_columns[rank], index.last_columns[rank]) == (columns[0], columns[-1])


def test_places_count_rows_among_the_active_ones():
    index = CandidateIndex.of(torch.tensor([[False, False], [True, True], [False, True]]))
    assert [part.tolist() for part in index.places] == [[0, 0, 1], [0, 1, 1]]


def test_vectors_of_candidates_are_padded_as_numbers_are():
    index = CandidateIndex.of(torch.tensor([[True, True], [False, True]]))
    vectors = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    assert index.padded(vectors).tolist() == [[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [0.0, 0.0]]]


def test_a_copy_on_the_host_is_used_as_it_is():
    mask = torch.tensor([[True, False]])
    assert CandidateIndex.of(torch.zeros_like(mask), mask).columns.tolist() == [0]
