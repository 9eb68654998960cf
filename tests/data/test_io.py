"""Image files: whatever tools write comes back as (C, *spatial), or with an error that says why not."""

import pickle

import imageio.v3 as imageio
import numpy as np
import pytest
import tifffile

from plurimask.data.io import UnreadableImage, list_images, natural, read_image


def volume(*shape, dtype=np.uint16):
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def write_pages(path, stack):
    """A TIFF of many pages that says nothing about them."""
    with tifffile.TiffWriter(path) as file:
        for plane in stack:
            file.write(plane, contiguous=False, metadata=None)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_plain_plane_keeps_values_and_dtype(tmp_path, dtype):
    plane = volume(5, 7, dtype=dtype)
    tifffile.imwrite(tmp_path / "a.tif", plane)
    image = read_image(tmp_path / "a.tif")
    assert image.data.dtype == dtype and image.name == "a" and image.pixel_size is None
    np.testing.assert_array_equal(image.data, plane[None])


def test_imagej_stack_of_channels_and_slices(tmp_path):
    stack = volume(4, 2, 5, 7)
    facts = {"axes": "ZCYX", "spacing": 0.5, "unit": "um"}
    tifffile.imwrite(tmp_path / "a.tif", stack, imagej=True, resolution=(10, 5), metadata=facts)
    image = read_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(image.data, stack.transpose(1, 0, 2, 3))
    # x: 10 pixels per micrometre, y: 5; slices are half a micrometre apart.
    assert image.pixel_size == pytest.approx((0.5, 0.2, 0.1))


def test_ome_axes_and_units(tmp_path):
    stack = volume(3, 5, 7)
    facts = {"axes": "CYX", "PhysicalSizeX": 250.0, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.5}
    tifffile.imwrite(tmp_path / "a.ome.tif", stack, ome=True, metadata=facts)
    image = read_image(tmp_path / "a.ome.tif")
    np.testing.assert_array_equal(image.data, stack)
    assert image.pixel_size == pytest.approx((0.5, 0.25))


def test_a_volume_without_the_distance_of_its_slices_has_no_pixel_size(tmp_path):
    facts = {"axes": "ZYX", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.5}
    tifffile.imwrite(tmp_path / "a.ome.tif", volume(3, 5, 7), ome=True, metadata=facts)
    assert read_image(tmp_path / "a.ome.tif").pixel_size is None


def test_the_resolution_of_a_printer_is_no_pixel_size(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", volume(5, 7), resolution=(72, 72), resolutionunit="INCH")
    assert read_image(tmp_path / "a.tif").pixel_size is None


@pytest.mark.parametrize(("samples", "channels"), [(3, 3), (4, 3)])
def test_colours_come_first_and_alpha_goes(tmp_path, samples, channels):
    picture = volume(5, 7, samples, dtype=np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", picture, photometric="rgb")
    imageio.imwrite(tmp_path / "b.png", picture)
    for name in ("a.tif", "b.png"):
        np.testing.assert_array_equal(read_image(tmp_path / name).data, picture.transpose(2, 0, 1)[:channels])


@pytest.mark.parametrize("samples", [3, 4])
def test_a_grey_picture_saved_as_colours_is_one_channel(tmp_path, samples):
    grey = volume(5, 7, dtype=np.uint8)
    picture = np.stack([grey] * 3 + [np.full_like(grey, 255)] * (samples - 3), axis=-1)
    tifffile.imwrite(tmp_path / "a.tif", picture, photometric="rgb")
    tifffile.imwrite(tmp_path / "b.tif", picture.transpose(2, 0, 1), photometric="rgb", planarconfig="separate")
    tifffile.imwrite(tmp_path / "c.ome.tif", picture[..., :3], photometric="rgb", ome=True)
    imageio.imwrite(tmp_path / "d.png", picture)
    for path in sorted(tmp_path.iterdir()):
        np.testing.assert_array_equal(read_image(path).data, grey[None])
    assert read_image(tmp_path / "a.tif", axes="YXC").data.shape == (3, 5, 7)
    assert read_image(tmp_path / "d.png", axes="YXC").data.shape == (3, 5, 7)
    # A single pixel of colour, by a single grey level, is colour.
    picture[2, 3, 1] += 1
    imageio.imwrite(tmp_path / "d.png", picture)
    np.testing.assert_array_equal(read_image(tmp_path / "d.png").data, picture.transpose(2, 0, 1)[:3])


def test_equal_channels_that_are_no_colours_stay(tmp_path):
    stack = np.stack([volume(5, 7)] * 3)
    tifffile.imwrite(tmp_path / "a.ome.tif", stack, ome=True, photometric="minisblack", metadata={"axes": "CYX"})
    samples = {"photometric": "minisblack", "planarconfig": "contig", "extrasamples": (0, 0)}
    tifffile.imwrite(tmp_path / "b.tif", stack.transpose(1, 2, 0), **samples)
    for name in ("a.ome.tif", "b.tif"):
        np.testing.assert_array_equal(read_image(tmp_path / name).data, stack)


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("quality", [1, 30, 75, 95, 100])
def test_grey_survives_jpeg_and_faint_colours_are_colours(tmp_path, quality, subsampling):
    from PIL import Image

    grey = np.random.default_rng(0).integers(0, 250, (33, 47)).astype(np.uint8)
    options = {"quality": quality, "subsampling": subsampling}
    Image.fromarray(np.stack([grey] * 3, axis=-1)).save(tmp_path / "grey.jpg", **options)
    with Image.open(tmp_path / "grey.jpg") as file:
        assert file.mode == "RGB"  # or the test is invalid
    assert len(read_image(tmp_path / "grey.jpg").data) == 1
    tinted = np.stack([grey, grey, np.where(np.arange(47) < 24, grey, grey // 2)], axis=-1)
    Image.fromarray(tinted).save(tmp_path / "tinted.jpg", **options)
    assert len(read_image(tmp_path / "tinted.jpg").data) == 3


def test_jpeg_inside_tiff(tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, (32, 48)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", np.stack([grey] * 3, axis=-1), photometric="rgb", compression="jpeg")
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.pages[0].photometric == tifffile.PHOTOMETRIC.YCBCR  # or the test is invalid
    assert len(read_image(tmp_path / "a.tif").data) == 1


def test_pictures_of_16_bits_of_one_bit_and_with_a_palette(tmp_path):
    from PIL import Image

    plane = volume(5, 7) * 1000
    imageio.imwrite(tmp_path / "a.png", plane)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").data, plane[None])
    bits = plane % 2000 == 0
    Image.fromarray(bits).save(tmp_path / "b.png")
    np.testing.assert_array_equal(read_image(tmp_path / "b.png").data > 0, bits[None])
    red = Image.new("RGB", (7, 5), (255, 0, 0)).quantize()
    red.save(tmp_path / "c.png")
    np.testing.assert_array_equal(read_image(tmp_path / "c.png").data[:, 0, 0], [255, 0, 0])


def test_jpeg(tmp_path):
    imageio.imwrite(tmp_path / "a.jpg", np.full((5, 7), 90, np.uint8))
    np.testing.assert_allclose(read_image(tmp_path / "a.jpg").data, np.full((1, 5, 7), 90), atol=1)


def test_a_plain_stack_is_ambiguous_until_the_axes_are_given(tmp_path):
    stack = volume(4, 5, 7)
    write_pages(tmp_path / "a.tif", stack)
    with pytest.raises(UnreadableImage, match=r"a\.tif.*\(4, 5, 7\).*--axes ZYX.*--axes CYX"):
        read_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif", axes="ZYX").data, stack[None])
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif", axes="cyx").data, stack)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif", axes="YXC").data, stack.transpose(2, 0, 1))


def test_axes_given_win_over_axes_stated(tmp_path):
    stack = volume(4, 5, 7)
    tifffile.imwrite(tmp_path / "a.tif", stack, imagej=True, metadata={"axes": "TYX"})
    with pytest.raises(UnreadableImage, match=r"4 time points.*--axes ZYX"):
        read_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif", axes="ZYX").data, stack[None])


def test_axes_of_length_one_go(tmp_path):
    stack = volume(1, 3, 1, 5, 7)
    tifffile.imwrite(tmp_path / "a.ome.tif", stack, ome=True, metadata={"axes": "TZCYX"})
    for axes in (None, "ZYX"):
        np.testing.assert_array_equal(read_image(tmp_path / "a.ome.tif", axes=axes).data, stack[0, :, 0][None])


@pytest.mark.parametrize(("axes", "error"), [("ZZYX", ValueError), ("QYX", ValueError), ("ZC", ValueError)])
def test_axes_that_make_no_sense(tmp_path, axes, error):
    tifffile.imwrite(tmp_path / "a.tif", volume(4, 5, 7), imagej=True)
    with pytest.raises(error, match="axes"):
        read_image(tmp_path / "a.tif", axes=axes)


def test_axes_that_do_not_fit(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", volume(4, 5, 7), imagej=True)
    with pytest.raises(UnreadableImage, match=r"'YX' name 2 axes.*\(4, 5, 7\)"):
        read_image(tmp_path / "a.tif", axes="YX")


def test_nan_and_complex_numbers_are_told(tmp_path):
    plane = np.zeros((5, 7), np.float32)
    plane[2, 3], plane[0, 0] = np.nan, np.inf
    tifffile.imwrite(tmp_path / "a.tif", plane)
    with pytest.raises(UnreadableImage, match=r"a\.tif: 2 pixels are NaN"):
        read_image(tmp_path / "a.tif")
    tifffile.imwrite(tmp_path / "b.tif", plane.astype(np.complex64))
    with pytest.raises(UnreadableImage, match="complex64"):
        read_image(tmp_path / "b.tif")


def writers():
    """What writes a file of many bytes in the ways that tools do."""
    noise = np.random.default_rng(0).integers(0, 4096, (3, 64, 80)).astype(np.uint16)
    return {
        "strips.tif": lambda path: tifffile.imwrite(path, noise[0], rowsperstrip=8),
        "plain.tif": lambda path: tifffile.imwrite(path, noise[0]),
        "packed.tif": lambda path: tifffile.imwrite(path, noise[0], compression="zlib"),
        "imagej.tif": lambda path: tifffile.imwrite(path, noise, imagej=True, metadata={"axes": "ZYX"}),
        "volume.ome.tif": lambda path: tifffile.imwrite(path, noise, ome=True, metadata={"axes": "ZYX"}),
        "pages.tif": lambda path: write_pages(path, noise),
        "tiles.tif": lambda path: tifffile.imwrite(
            path, noise, tile=(16, 16), photometric="minisblack", metadata={"axes": "ZYX"}
        ),
        "picture.png": lambda path: imageio.imwrite(path, noise[0]),
        "picture.jpg": lambda path: imageio.imwrite(path, (noise[0] // 16).astype(np.uint8)),
    }


@pytest.mark.parametrize("name", writers())
@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.6, 0.9, 0.99])
def test_a_file_that_was_cut_off_is_never_read(tmp_path, name, share):
    path = tmp_path / name
    writers()[name](path)
    read_image(path, axes="ZYX" if name == "pages.tif" else None)  # whole it can be read, or the test is invalid
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UnreadableImage, match=name):
        read_image(path, axes="ZYX" if name == "pages.tif" else None)


def test_not_an_image_at_all(tmp_path):
    (tmp_path / "a.tif").write_text("hello")
    (tmp_path / "a.czi").write_text("hello")
    for name in ("a.tif", "a.czi"):
        with pytest.raises(UnreadableImage, match=name):
            read_image(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"b\.tif"):
        read_image(tmp_path / "b.tif")


def test_the_error_comes_back_from_a_worker_process():
    error = pickle.loads(pickle.dumps(UnreadableImage("a.tif", "damaged")))
    assert str(error) == "a.tif: damaged" and error.why == "damaged"


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_listing_a_folder(tmp_path):
    touch(tmp_path, "b10.tif", "b9.TIF", "a/c.png", "b9_labels.tif", "b9_overview.png", "b9_masks.tif", "notes.txt")
    touch(tmp_path, ".hidden/d.png", "._b9.tif", "b9.plurimask.zarr/x.png")
    assert [str(path.relative_to(tmp_path)) for path in list_images(tmp_path)] == ["a/c.png", "b9.TIF", "b10.tif"]


def test_truth_beside_images_is_not_listed(tmp_path):
    touch(tmp_path, "fit/images/a.tif", "fit/masks/a.tif", "fit/labels/x/a_1.png", "other/masks/b.tif")
    assert [str(path.relative_to(tmp_path)) for path in list_images(tmp_path)] == [
        "fit/images/a.tif",
        "other/masks/b.tif",
    ]
    assert [path.name for path in list_images(tmp_path / "fit" / "masks")] == ["a.tif"]  # whoever names it means it


def test_listing_patterns_and_files(tmp_path):
    touch(tmp_path, "b10.tif", "b9.tif", "b9_labels.tif", "c_masks.tif", "d.png")
    names = [path.name for path in list_images([tmp_path / "*.tif", tmp_path / "d.png", tmp_path / "b9.tif"])]
    assert names == ["b9.tif", "b10.tif", "d.png"]
    # A shell expands the pattern itself: an output whose image is there goes, one that stands alone is meant.
    expanded = [tmp_path / name for name in ("b9.tif", "b9_labels.tif", "c_masks.tif")]
    assert [path.name for path in list_images(expanded)] == ["b9.tif", "c_masks.tif"]


def test_listing_nothing(tmp_path):
    for path in (tmp_path, tmp_path / "*.tif", tmp_path / "a.tif"):
        with pytest.raises(FileNotFoundError, match=str(path.name).replace("*", r"\*")):
            list_images(path)


def test_natural_order():
    assert sorted(["x2y10", "x2y9", "x10", "1"], key=natural) == ["1", "x2y9", "x2y10", "x10"]
