"""The words of a report, a sentence for each."""

from __future__ import annotations

TERMS = (
    ("SQNR", "Signal to quantization noise ratio: the power of the float values over the power of the error, in decibels; "
     "20 dB is an error of a tenth of the values, 40 dB of a hundredth."),
    ("MSE", "Mean squared error: the mean of the squared differences from the float values."),
    ("cosine", "The cosine of the angle between the float values and the others, taken as vectors; 1 is the same direction."),
    ("worst tenth", "The same ratio over those tenth of the samples that lose most."),
    ("slice", "A part of an output that differs in scale from its other parts, such as scores beside coordinates; each is "
     "judged by itself."),
    ("same answers", "The answers that stay what the float model says: the class with the highest number, boxes that overlap "
     "by half, or whole numbers."),
    ("held-out samples", "Samples from which nothing about the file was chosen, so that they show what others will lose."),
    ("constant, weight", "A constant is a tensor that the file stores; a weight is one that a product, a convolution or a "
     "lookup reads."),
    ("site", "A place where a weight is consumed."),
    ("format", "The meaning of stored bits: how many there are for each weight, and which weights share a scale."),
    ("target", "The operators that an encoded weight becomes: standard ones (onnx), onnxruntime's (ort), ours (custom)."),
    ("folded", "Decoded once when a session is created, so that the op runs at float speed."),
    ("kernel", "The code of onnxruntime, or of our library, that computes one op."),
    ("integer activations", "Values between ops that are 8-bit integers: static ranges come from samples, dynamic ones are "
     "computed on every call."),
    ("twin", "The original model with each encoded weight replaced by the float values that its codes stand for."),
    ("exact", "The file as it was written, computing in float: it should give what the twin gives."),
    ("deployed", "The file as a user runs it, with all that onnxruntime makes of it."),
    ("unoptimized", "The file in a session that leaves the graph as it is."),
    ("sum test", "The error of a product with random values, over the product; above 1 there is more error than signal."),
    ("gradient z", "The largest deviation of a product with a ramp, over what independent rounding of that size gives; it "
     "shows rows or columns that changed places."),
    ("Pareto front", "The files that no other one beats in both size and speed."),
    ("interval", "The true ratio lies in it 19 times of 20; a wide one means that other work disturbed the measurement."),
)  # fmt: skip
