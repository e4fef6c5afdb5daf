import pytest

import synthetic
from pruneboard.benchmark.errors import StoreError
from pruneboard.benchmark.render import inventory, with_inventory, write_inventory

README = "# Tables\n<!-- made by `pruneboard table --publish`: begin -->\nold\n" + (
    "<!-- made by `pruneboard table --publish`: end -->\nThe end.\n"
)


def test_an_inventory_says_what_was_measured_on_what_and_how_to_do_it_again():
    suite = synthetic.make_suite(seeds=(0, 1, 2), shots=(1, 5))
    rows = synthetic.make_rows(suite)
    rows = rows.loc[rows["model"] != "digits_vgg"]
    text = inventory([(suite, rows), (synthetic.make_suite("other"), rows.iloc[:0])])

    assert text.startswith("### digits\n\n- What: suite `digits`, version 1, protocol one_shot; ")
    assert f"; {len(rows)} rows of {rows['key'].nunique()} jobs, 18 of them unsupported\n" in text
    assert "- Networks: `digits_resnet` (filters), `digits_vit` (heads), `digits_vit` (neurons)\n" in text
    assert "- Criteria: 11 untuned, 0 tuned; 1, 5 reference images per class; seeds 0 to 2\n" in text
    assert "`digits`, 450 evaluation images" in text
    assert (
        f"- In: {1.4 * rows['key'].nunique() / 3600:.2f} hours of all jobs together, on 2026-05-01 to 2026-05-03\n"
        in text
    )
    assert (
        "`pruneboard run digits --model digits_resnet --model digits_vit`; `pruneboard table digits --publish`" in text
    )
    assert "other" not in text


def test_an_inventory_takes_the_place_of_the_old_one_and_touches_nothing_else(tmp_path):
    suite = synthetic.make_suite(seeds=(0,), shots=(1,))
    path = tmp_path / "README.md"
    assert not write_inventory(path, [])
    path.write_text(README, encoding="utf-8")

    assert write_inventory(path, [(suite, synthetic.make_rows(suite))])
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# Tables\n<!-- made by")
    assert text.endswith("<!-- made by `pruneboard table --publish`: end -->\nThe end.\n")
    assert "old" not in text
    assert "### digits" in text
    assert with_inventory(text, "new").count("new") == 1


def test_a_document_without_a_place_is_refused():
    with pytest.raises(StoreError, match="must hold the lines `<!-- made by"):
        with_inventory("# Tables\n", "new")
