from armap.pipeline.beginnings import unfinished_pairs
from rewards.toy_pairs import toy_pairs


def test_beginnings_part_where_the_pair_parts_and_end_before_either_side_does():
    pairs = toy_pairs(60, 0)
    found = [(pair, begun) for pair in pairs for begun in unfinished_pairs(pair)]
    assert found
    for pair, begun in found:
        for side in ("chosen", "rejected"):
            whole, cut = getattr(pair, side), getattr(begun, side)
            assert cut.steps == whole.steps[: len(cut.steps)]
            assert 0 < len(cut.steps) < len(whole.steps)
            assert cut.final_observation == whole.steps[len(cut.steps)].observation
        assert len(begun.chosen.steps) == len(begun.rejected.steps)
        assert begun.chosen.final_observation.text != begun.rejected.final_observation.text
    assert len({begun.id for _, begun in found}) == len(found)
