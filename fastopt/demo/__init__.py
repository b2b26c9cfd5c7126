"""`fastopt train`: a training program as a user would write it, with fastopt's public API alone.

data.py, augment.py     images: scikit-learn's digits or a file's, and random changes of them
settings.py             everything that determines a training; its schedule and optimizer
network.py, trainer.py  the layers and their gradients; epochs, history, the best epoch, the state to go on from
fit.py                  the loop over epochs: validation, early stopping, progress
checkpoint.py           a file to go on from with the same bits
records.py, plot.py     history files, TensorBoard; the learning curves
report.py               what is printed: summary, test images, confusion matrix
comparison.py, plain/   the same training with NumPy as one writes it, and with fastopt.reference
train_command.py        the command; arguments.py and outputs.py have what all commands share
"""
