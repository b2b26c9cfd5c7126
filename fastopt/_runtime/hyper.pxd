# Numbers among the arguments. See hyper.pyx.

cpdef object integer(object value, object name, object low, object high=*)
