import numpy as np

from topnine.pipeline.drawing.contrast import contrast


def test_zero_is_mid_grey_and_the_scale_is_symmetric():
    drawn = contrast(np.array([-2.0, -1.0, 0.0, 1.0, 2.0]), quantile=1.0)
    assert drawn.dtype == np.uint8
    assert drawn.tolist() == [1, 64, 128, 192, 255]
    assert np.all(contrast(np.zeros((3, 3))) == 128)


def test_a_few_strong_pixels_do_not_drown_the_rest():
    projection = np.full(1000, 0.5)
    projection[:3] = 100
    assert contrast(projection)[500] == 255
    assert contrast(projection, quantile=1.0)[500] == 129


def test_where_the_quantile_is_zero_the_maximum_has_full_contrast():
    projection = np.zeros(1000)
    projection[0], projection[1] = -4, 2
    assert contrast(projection)[:3].tolist() == [1, 192, 128]
