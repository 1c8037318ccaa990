"""Constants of programs are shared, aligned and packed once; later bindings may add some."""

import json

import numpy as np
import pytest

from qcompiler.backends.program.builder import ProgramBuilder
from qcompiler.backends.program.constants import Constants, content_key
from qcompiler.backends.program.image import ArraySpec
from qcompiler.backends.program.saved_image import image_data, image_of
from qcompiler.errors import LoweringError
from tests.backends.program.programs import BYTES, add, linked


def test_constants_are_shared_aligned_and_frozen():
    builder = ProgramBuilder([], [ArraySpec(BYTES, (64,))])
    a = builder.constant(np.arange(64, dtype=BYTES))
    b = builder.constant(np.arange(10, dtype=np.float32))
    again = builder.constant(np.arange(64, dtype=BYTES).reshape(8, 8))
    assert a == again and a != b
    add(builder, a, builder.output(0), 64, 5)
    bound = linked(builder)
    assert np.array_equal(bound.run([])[0], np.arange(64, dtype=BYTES) + 5)
    assert not bound.constants.data.flags.writeable
    offsets = {buffer.name: buffer.offset for buffer in bound.image.buffers}
    assert offsets[a.name] != offsets[b.name] and offsets[b.name] % 64 == 0
    assert bound.constants.data[offsets[b.name] :][:40].view(np.float32).tolist() == list(range(10))


def add_array(constants, array):
    key, fill = content_key(array)
    return constants.add(key, array.nbytes, fill)


def test_views_in_other_layouts_pack_in_c_order():
    constants = Constants()
    array = np.arange(12, dtype=np.int16).reshape(3, 4)
    assert add_array(constants, array.T) == 0
    assert add_array(constants, np.ascontiguousarray(array.T)) == 0
    assert add_array(constants, array[:, ::-1]) == 64
    assert np.array_equal(constants.block().data[:24].view(np.int16).reshape(4, 3), array.T)
    assert add_array(constants, array.T) == 0 and add_array(constants, np.ones(3)) is None


def test_bindings_share_constants_and_may_add_their_own():
    constants = Constants()
    for n in (4, 5, 4, 6):
        builder = ProgramBuilder([], [ArraySpec(BYTES, (n,)), ArraySpec(BYTES, (8,))], constants)
        add(builder, builder.constant(np.full(n, n, BYTES)), builder.output(0), n, 1)
        add(builder, builder.constant(np.full(8, 200, BYTES)), builder.output(1), 8, 2)
        bound = linked(builder)
        a, b = bound.run([], threads=2)
        assert a.tolist() == [n + 1] * n and b.tolist() == [202] * 8
        assert bound.constants is constants.block()
        assert (bound.own is None) == (n == 4) == (bound.image.own_constant_bytes == 0)


def test_an_image_is_a_value_and_packs_nothing():
    def build(constants):
        builder = ProgramBuilder([], [ArraySpec(BYTES, (8,))], constants, "value", "x86-64+avx2", {"B": 8})
        add(builder, builder.deferred("weights", 8, lambda block: 1 / 0), builder.output(0), 8, 1)
        return builder.finish()

    one, other = build(Constants()), build(Constants())
    assert one == other and hash(one) == hash(other) and str(one) == str(other)
    assert image_of(json.loads(json.dumps(image_data(one)))) == one


def test_constants_are_written_once_when_the_block_is_packed():
    constants, written = Constants(), []

    def fill(block):
        written.append(block.tolist())
        block[:] = np.arange(1, 1 + len(block))

    assert add_array(constants, np.full(3, 9, BYTES)) == 0
    assert constants.add("key", 5, fill) == 64 and constants.add("key", 5, fill) == 64
    assert constants.add("other", 2, fill) == 128 and not written
    constants.close()
    assert constants.nbytes == 130 and not written
    data = constants.block().data
    assert written == [[0] * 5, [0, 0]]
    assert data[:3].tolist() == [9] * 3
    assert data[64:69].tolist() == [1, 2, 3, 4, 5] and data[128:130].tolist() == [1, 2]
    assert constants.add("key", 5, fill) == 64 and constants.add("new", 5, fill) is None
    assert constants.block().data is data and len(written) == 2


def test_large_blocks_are_written_whole_by_two_threads():
    constants = Constants()
    for number in range(200):
        constants.add(str(number), 40_000, lambda block, number=number: block.fill(number + 1))
    data = constants.block().data
    assert data.nbytes >= 200 * 40_000
    offsets = [constants.add(str(number), 40_000, lambda block: None) for number in range(200)]
    assert all((data[offset : offset + 40_000] == number + 1).all() for number, offset in enumerate(offsets))


def test_what_a_later_binding_defers_lies_in_its_own_block():
    constants = Constants()
    for n in (4, 5, 4):
        builder = ProgramBuilder([], [ArraySpec(BYTES, (8,))], constants)
        add(builder, builder.deferred(f"of {n}", 8, lambda block, n=n: block.fill(n)), builder.output(0), 8, 1)
        bound = linked(builder)
        assert bound.run([])[0].tolist() == [n + 1] * 8 and (bound.own is None) == (n == 4)


def test_constants_are_plain_numbers():
    with pytest.raises(LoweringError, match="plain numbers"):
        content_key(np.array([{}]))
