"""Whole models: the shapes of their parameters."""

from fastopt.bench.optimizers import layers, model


def perceptron():
    """10 tensors of 110 k elements."""
    return layers(784, 128, 64, 16, 16, 10)


def resnet50():
    """161 tensors of 25.6 M elements."""
    shapes = [(64, 3, 7, 7), (64,), (64,)]
    inside = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for i in range(blocks):
            convolutions = [(width, inside, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1)]
            if i == 0:
                convolutions.append((4 * width, inside, 1, 1))
            for shape in convolutions:
                shapes += [shape, (shape[0],), (shape[0],)]
            inside = 4 * width
    return [*shapes, (1000, 2048), (1000,)]


def gpt2():
    """148 tensors of 124 M elements."""
    width = 768
    norm = [(width,), (width,)]
    block = [*norm, (width, 3 * width), (3 * width,), (width, width), (width,),
             *norm, (width, 4 * width), (4 * width,), (4 * width, width), (width,)]
    return [(50257, width), (1024, width), *(12 * block), *norm]


MODELS = {"10 tensors, 110 k": perceptron, "ResNet-50, 161 tensors": resnet50, "GPT-2, 148 tensors": gpt2}
CLIP = 1.0


def models(case):
    """A case's workloads of whole models, without and with clipping by norm."""
    return [model(case, name, shapes(), clip) for name, shapes in MODELS.items() for clip in (None, CLIP)]
