"""The ladder of resolutions."""

import pytest

from limner.errors import LimnerError
from limner.networks.resolutions import resolutions
from limner.tasks import PictureShape


def test_resolutions_double_from_four_up_to_the_picture():
    assert resolutions(PictureShape(3, 16, 16, classes=0), family="toy") == [4, 8, 16]
    assert resolutions(PictureShape(3, 256, 256, classes=0), family="toy") == [4, 8, 16, 32, 64, 128, 256]


@pytest.mark.parametrize(("height", "width"), [(32, 64), (48, 48), (8, 8), (512, 512)])
def test_a_size_that_cannot_be_built_is_refused_with_the_familys_name_and_the_sizes_that_can(height, width):
    with pytest.raises(LimnerError, match=rf"(?s)The toy networks .*{width}x{height}.*16, 32, 64, 128 or 256"):
        resolutions(PictureShape(1, height, width, classes=0), family="toy")
