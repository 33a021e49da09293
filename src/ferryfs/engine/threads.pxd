# POSIX threads as the engine uses them.
from posix.time cimport timespec
from posix.types cimport clockid_t


cdef extern from "sched.h" nogil:
    int sched_yield()

cdef extern from "pthread.h" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    ctypedef struct pthread_cond_t:
        pass
    ctypedef struct pthread_condattr_t:
        pass
    ctypedef struct pthread_attr_t:
        pass
    ctypedef unsigned long pthread_t
    int pthread_mutex_init(pthread_mutex_t *mutex, const void *attr)
    int pthread_mutex_lock(pthread_mutex_t *mutex)
    int pthread_mutex_unlock(pthread_mutex_t *mutex)
    int pthread_mutex_destroy(pthread_mutex_t *mutex)
    int pthread_cond_init(pthread_cond_t *cond, const pthread_condattr_t *attr)
    int pthread_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mutex)
    int pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *mutex, const timespec *until)
    int pthread_cond_signal(pthread_cond_t *cond)
    int pthread_cond_broadcast(pthread_cond_t *cond)
    int pthread_cond_destroy(pthread_cond_t *cond)
    int pthread_attr_init(pthread_attr_t *attr)
    int pthread_attr_setstacksize(pthread_attr_t *attr, size_t size)
    int pthread_attr_setdetachstate(pthread_attr_t *attr, int state)
    int pthread_attr_destroy(pthread_attr_t *attr)
    int pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*body)(void *) noexcept nogil, void *arg)
    int pthread_join(pthread_t thread, void **value)
    int pthread_setname_np(pthread_t thread, const char *name)
    pthread_t pthread_self()
    int PTHREAD_CREATE_DETACHED

cdef extern from "signal.h" nogil:
    ctypedef struct sigset_t:
        pass
    int sigfillset(sigset_t *set)
    int sigdelset(sigset_t *set, int signal)
    int pthread_sigmask(int how, const sigset_t *set, sigset_t *old)
    int SIG_SETMASK
    int SIGBUS_ "SIGBUS"
    int SIGSEGV_ "SIGSEGV"
