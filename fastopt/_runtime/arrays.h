/* What Cython does not express about a Py_buffer: whether it holds an object, without counting a reference to it. */
#ifndef FASTOPT_ARRAYS_H
#define FASTOPT_ARRAYS_H

#define fastopt_clear(view) ((view)->obj = NULL)
#define fastopt_held(view) ((view)->obj != NULL)
#define fastopt_holds(view, object) ((view)->obj == (object))

#endif
