"""Reads tensors of a safetensors file and compares logits. Python's standard library only."""
import array
import json
import math
import statistics
import struct

TYPE_CODES = {"F32": "f", "I32": "i"}


def read_tensor(path, name):
    """(shape, flat array)."""
    with open(path, "rb") as file:
        header_size_bytes = struct.unpack("<Q", file.read(8))[0]
        info = json.loads(file.read(header_size_bytes))[name]
        begin, end = info["data_offsets"]
        file.seek(8 + header_size_bytes + begin)
        values = array.array(TYPE_CODES[info["dtype"]])
        values.frombytes(file.read(end - begin))
    assert len(values) == math.prod(info["shape"]), f"{path}: {name} is cut short"
    return info["shape"], values


def largest_difference(actual, expected):
    """Largest difference over the largest expected magnitude."""
    assert len(actual) == len(expected)
    assert all(map(math.isfinite, actual)), "a logit is not finite"
    return max(abs(a - e) for a, e in zip(actual, expected)) / max(map(abs, expected))


def median_row_error(actual, expected, num_cols):
    """The median over the rows of the RMS difference relative to the row's RMS. The median: where
    two experts score within rounding of each other another one may be chosen, which is no error of
    arithmetic, and such a row and those that attend to it differ by more."""
    assert len(actual) == len(expected)
    assert all(map(math.isfinite, actual)), "a logit is not finite"
    errors = []
    for begin in range(0, len(expected), num_cols):
        row, wanted = actual[begin:begin + num_cols], expected[begin:begin + num_cols]
        error = sum((a - e) ** 2 for a, e in zip(row, wanted))
        errors.append(math.sqrt(error / sum(e * e for e in wanted)))
    return statistics.median(errors)


def production_tolerance(num_hidden_layers):
    """RMS difference that BF16 activations may cause: eight roundings in a row in each layer,
    2^-9 / sqrt(3) each in the mean square, adding as squares. The factor 6: softmax turns an error
    of a score into |score| times as much, silu is steeper than a product, and a row attends to
    others whose experts may have been chosen otherwise."""
    return 6 * 2.0 ** -9 / math.sqrt(3) * math.sqrt(8 * num_hidden_layers + 1)
