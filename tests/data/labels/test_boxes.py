"""Boxes: the file's checks, sizes, and lookup by batch."""

import numpy as np
import pytest

from csr.data.labels.boxes import read_boxes
from csr.runtime.errors import InputError

HEADER = "image_id,rad_id,class_name,x_min,y_min,x_max,y_max\n"
SIZES = np.array([[20, 10], [40, 40], [8, 8]])


@pytest.fixture
def table(read):
    return read("image_id,Mass,Edema,COPD\na.png,1,0,1\nb,1,1,0\nc,0,1,0\n")


@pytest.fixture
def boxes_of(write, table):
    return lambda rows, **options: read_boxes(write(HEADER + rows, "boxes.csv"), table=table, **options)


def test_boxes_are_fractions_of_their_image_in_any_order_of_the_batch(boxes_of):
    rows = "b,R1,Edema,4,8,12,40\na,R1,mass,1,2,5,20\nb,R2,Mass,0,0,40,10\n"
    boxes = boxes_of(rows).check_inside(SIZES)
    row_R, class_R, box_R4 = boxes.for_batch([2, 1, 0, 1])
    assert row_R.tolist() == [1, 1, 2, 3, 3]
    assert class_R.tolist() == [1, 0, 0, 1, 0]
    wide = [[0.1, 0.2, 0.3, 1.0], [0.0, 0.0, 1.0, 0.25]]
    np.testing.assert_allclose(box_R4, [*wide, [0.1, 0.1, 0.5, 1.0], *wide], rtol=1e-6)
    assert box_R4.dtype == np.float32
    assert [part.shape for part in boxes.for_image(2)] == [(0,), (0, 4)]


def test_rows_without_coordinates_mean_no_box(boxes_of):
    boxes = boxes_of("a,R1,No finding,,,,\nb,R1,Mass,1,1,2,2\n")
    assert len(boxes) == 1 and boxes.ignored == {}
    assert len(boxes_of("a,R1,No finding,,,,\n")) == 0


def test_other_classes_are_omitted_and_counted(boxes_of):
    rows = "a,R,COPD,1,1,2,2\na,R,COPD,1,1,3,3\na,R,Mass,1,1,2,2\n"
    assert boxes_of(rows).ignored == {"COPD": 2}
    with pytest.raises(InputError, match="no class_name .'COPD'.*is a concept"):
        boxes_of("a,R,COPD,1,1,2,2\n")


@pytest.mark.parametrize(
    "row, expected",
    [
        ("a,R,Mass,nan,1,2,2", "line 2, column x_min: 'nan' is not a number"),
        ("a,R,Mass,1,inf,2,2", "column y_min"),
        ("a,R,Mass,1,1,1e999,2", "column x_max"),
        ("a,R,Mass,1_0,1,20,2", "column x_min"),
        ("a,R,Mass,1,,2,2", "column y_min: '' is not a number"),
        ("a,R,Mass,-1,1,2,2", "'-1' is negative"),
        ("a,R,Mass,2,1,1,2", "x_max 1 is not greater than x_min 2"),
        ("a,R,Mass,1,2,2,2", "y_max 2 is not greater"),
        ("zz,R,Mass,1,1,2,2", "'zz' is not in"),
        ("a,R,,1,1,2,2", "class_name is empty"),
        ("a,R,Mass,1,1,2", "6 cells"),
    ],
)
def test_a_bad_row_is_named_by_line(boxes_of, row, expected):
    with pytest.raises(InputError, match=expected) as caught:
        boxes_of(row + "\n")
    assert "boxes.csv line 2" in str(caught.value)


def test_an_empty_file_is_refused(boxes_of):
    with pytest.raises(InputError, match="no rows"):
        boxes_of("")


def test_boxes_on_unknown_images_can_be_allowed(boxes_of):
    rows = "zz,R,Mass,1,1,2,2\na,R,Mass,1,1,2,2\n"
    boxes = boxes_of(rows, allow_unknown=True)
    assert len(boxes) == 1 and boxes.num_unknown == 1


def test_boxes_over_the_edge_are_cut_below_a_pixel_and_refused_above(boxes_of):
    near = boxes_of("a,R,Mass,1,1,10.9,20\n").check_inside(SIZES)
    assert near.for_image(0)[1][0].tolist() == pytest.approx([0.1, 0.05, 1.0, 1.0])
    for row in ("a,R,Mass,1,1,11,20", "a,R,Mass,10,1,10.5,20", "a,R,Mass,1,1,5,30"):
        with pytest.raises(InputError, match="line 2: .* on image 'a.png' of 10x20 pixels"):
            boxes_of(row + "\n").check_inside(SIZES)


def test_the_real_boxes_lie_in_their_images(real_images):
    from csr.data.images.decode import decode_image
    from csr.data.images.find import find_images
    from csr.data.labels.table import read_label_table

    targets = ["malignant", "cyst", "fibroadenoma"]
    table = read_label_table(real_images / "labels_test.csv", target_cols=targets)
    paths = find_images(real_images / "test", table)[:8]
    boxes = read_boxes(real_images / "boxes_test.csv", table=table)
    sizes = np.full((len(table), 2), 10**6)
    sizes[:8] = [(image.height, image.width) for image in map(decode_image, paths)]
    row_R, _, box_R4 = boxes.check_inside(sizes).for_batch(range(8))
    assert len(row_R) and (box_R4 >= 0).all() and (box_R4 <= 1).all()


def test_a_crop_cuts_boxes_and_leaves_out_what_is_nearly_gone(boxes_of):
    # image a is 20 high and 10 wide: the central square is y 5..15
    rows = "".join(
        f"a,R,Mass,{row}\n"
        for row in (
            "0,5,10,15",  # the whole square
            "2,0,4,10",  # half of it is seen
            "2,0,4,6.5",  # 1.5 of 6.5: less than a quarter
            "2,0,4,5",  # ends where the square begins
            "2,1,4,6.6666667",  # 1.667 of 5.667: more than a quarter
            "1,16,3,19",  # below
        )
    )
    boxes = boxes_of(rows).check_inside(SIZES)
    frame_N4 = np.array([[0, 0.25, 1, 0.75], [0, 0, 1, 1], [0, 0, 1, 1]])
    seen = boxes.in_square(frame_N4)
    _, _, box_R4 = seen.for_batch([0])
    expected = [[0, 0, 1, 1], [0.2, 0, 0.4, 0.5], [0.2, 0, 0.4, 0.16666667]]
    np.testing.assert_allclose(box_R4, expected, atol=1e-6)
    assert (seen.num_cut, seen.num_outside) == (2, 3)
    (line,) = seen.square_lines()
    assert "of 6 boxes 2 are cut" in line and "3 are not used" in line and "less than 25%" in line
    assert len(boxes) == 6, "the table before is as it was"


def test_a_letterbox_cuts_no_box(boxes_of):
    boxes = boxes_of("a,R,Mass,0,5,10,20\n").check_inside(SIZES)
    frame_N4 = np.array([[-0.5, 0, 1.5, 1], [0, 0, 1, 1], [0, 0, 1, 1]])
    seen = boxes.in_square(frame_N4)
    np.testing.assert_allclose(seen.for_image(0)[1], [[0.25, 0.25, 0.75, 1]])
    assert seen.square_lines() == []


def test_the_whole_image_as_its_square_changes_no_bit(boxes_of):
    boxes = boxes_of("b,R,Mass,1.1,2.3,17.7,39.9\na,R,Edema,0.3,0.7,9.1,11\n").check_inside(SIZES)
    seen = boxes.in_square(np.tile([0.0, 0, 1, 1], (3, 1)))
    for before, after in zip(boxes.for_batch([0, 1]), seen.for_batch([0, 1]), strict=True):
        np.testing.assert_array_equal(before, after)
