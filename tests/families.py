"""A small member of every torchvision family, and what it takes to mine it."""

FAMILIES = [
    "alexnet", "vgg11", "vgg13_bn", "squeezenet1_1", "googlenet", "inception_v3", "resnet18", "resnext50_32x4d",
    "wide_resnet50_2", "densenet121", "mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2_x0_5", "mnasnet0_5",
    "efficientnet_b0", "efficientnet_v2_s", "regnet_x_400mf", "regnet_y_400mf", "convnext_tiny",
]  # fmt: skip
SMOOTH = {"mobilenet_v3_small", "efficientnet_b0", "efficientnet_v2_s", "convnext_tiny"}

# Those whose chain of operations is written out by hand in the oracle.
CHAINS = ["tiny_zfnet", "alexnet", "vgg16", "squeezenet1_0", "resnet18", "googlenet", "densenet121"]
