//! What napi-rs does not offer or makes slow: bare functions, a poll handle of libuv, and arrays over memory of ours.
#![expect(unsafe_code, reason = "Node-API and libuv speak in pointers")]

use napi::bindgen_prelude::{JsObjectValue, Object, Result, Unknown};
use napi::{Env, JsValue, sys};
use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;
use std::rc::Rc;
use std::sync::OnceLock;

// ---- functions ---------------------------------------------------------------------------------------------------------

/// Most arguments of a call.
const MOST_ARGUMENTS: usize = 5;

/// A function that is called per message. Its answer is a number.
pub(crate) type Call = fn(&mut Arguments<'_>) -> Result<i32>;

/// What a call was given. No JavaScript runs while it lives, so buffers stay where they are.
pub(crate) struct Arguments<'call> {
    env: &'call Env,
    values: [sys::napi_value; MOST_ARGUMENTS],
}

/// Adds a function to the module.
pub(crate) fn define(exports: &mut Object<'_>, name: &str, call: Call) -> Result<()> {
    let (env, mut function) = (exports.value().env, ptr::null_mut());
    // SAFETY: `env` is that of the module being loaded; `invoke` reads as a `Call` what was passed as one.
    check(unsafe {
        let length = name.len().cast_signed();
        let data = call as *mut c_void;
        sys::napi_create_function(env, name.as_ptr().cast(), length, Some(invoke), data, &raw mut function)
    })?;
    // SAFETY: `function` was just made in this env.
    let function = unsafe { Unknown::from_raw_unchecked(env, function) };
    exports.set_named_property(name, function)
}

/// Calls the `Call` that the function was made with.
extern "C" fn invoke(env: sys::napi_env, info: sys::napi_callback_info) -> sys::napi_value {
    let (mut values, mut count) = ([ptr::null_mut(); MOST_ARGUMENTS], MOST_ARGUMENTS);
    let mut data = ptr::null_mut();
    // SAFETY: Node calls this with a valid env and info, and `values` has room for `count`; absent ones become undefined.
    unsafe {
        sys::napi_get_cb_info(env, info, &raw mut count, values.as_mut_ptr(), ptr::null_mut(), &raw mut data);
    }
    // SAFETY: `define` made every such function, with a `Call` as its data.
    let call = unsafe { std::mem::transmute::<*mut c_void, Call>(data) };
    let of = Env::from_raw(env);
    let outcome =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| call(&mut Arguments { env: &of, values })));
    let mut answer = ptr::null_mut();
    match outcome {
        Ok(Ok(number)) => {
            // SAFETY: the env is valid and `answer` has room.
            unsafe { sys::napi_create_int32(env, number, &raw mut answer) };
        }
        Ok(Err(error)) => throw(env, error),
        Err(_) => throw(env, napi::Error::from_reason("a panic in the native half of machnet")),
    }
    answer
}

#[cold]
fn throw(env: sys::napi_env, error: napi::Error) {
    // SAFETY: called inside a call from JavaScript, whose env this is.
    unsafe { napi::JsError::from(error).throw_into(env) };
}

fn check(status: sys::napi_status) -> Result<()> {
    if status == sys::Status::napi_ok {
        return Ok(());
    }
    Err(napi::Error::new(napi::Status::from(status), "Node-API refused a call of machnet's native half"))
}

impl<'call> Arguments<'call> {
    /// For errors.
    pub(crate) fn env(&self) -> &'call Env {
        self.env
    }

    /// A number without a fraction, from 0.
    #[inline]
    pub(crate) fn number(&self, place: usize) -> Result<u32> {
        let mut number = 0;
        // SAFETY: the value belongs to the call that goes on.
        check(unsafe { sys::napi_get_value_uint32(self.env.raw(), self.values[place], &raw mut number) })?;
        Ok(number)
    }

    /// The bytes of a `Uint8Array`, to read.
    #[inline]
    pub(crate) fn bytes(&self, place: usize) -> Result<&[u8]> {
        self.bytes_of(self.values[place])
    }

    fn bytes_of(&self, value: sys::napi_value) -> Result<&[u8]> {
        let (start, length) = self.array(value, sys::TypedarrayType::uint8_array)?;
        // SAFETY: as `array` says; nobody writes while the call goes on but threads with which the program shares the memory, and
        // against those it has to guard its buffers itself, as for every function of Node that takes one.
        Ok(unsafe { std::slice::from_raw_parts(start.cast(), length) })
    }

    /// The bytes of a `Uint8Array`, to write.
    #[inline]
    pub(crate) fn bytes_mut(&mut self, place: usize) -> Result<&mut [u8]> {
        self.writable(place)
    }

    fn writable(&self, place: usize) -> Result<&'call mut [u8]> {
        let (start, length) = self.array(self.values[place], sys::TypedarrayType::uint8_array)?;
        // SAFETY: as for `bytes_of`, and there is one such slice per call, but for `bytes_and_words`, which looks for overlap.
        Ok(unsafe { std::slice::from_raw_parts_mut(start.cast(), length) })
    }

    /// A `Uint8Array` and a `Uint32Array` that do not overlap, to write.
    pub(crate) fn bytes_and_words(&mut self, bytes: usize, words: usize) -> Result<(&mut [u8], &mut [u32])> {
        let bytes = self.writable(bytes)?;
        let (start, length) = self.array(self.values[words], sys::TypedarrayType::uint32_array)?;
        let (from, to) = (start as usize, start as usize + 4 * length);
        let place = bytes.as_ptr_range();
        if from < place.end as usize && (place.start as usize) < to {
            return Err(napi::Error::from_reason("the buffer and the lengths overlap"));
        }
        // SAFETY: as above; a Uint32Array is aligned, and overlaps nothing that is borrowed.
        Ok((bytes, unsafe { std::slice::from_raw_parts_mut(start.cast(), length) }))
    }

    /// The `Uint8Array`s of an array, from its element `from` on.
    pub(crate) fn list(&self, place: usize, from: u32) -> Result<Vec<&[u8]>> {
        let (env, list, mut count) = (self.env.raw(), self.values[place], 0);
        // SAFETY: the value belongs to the call that goes on.
        check(unsafe { sys::napi_get_array_length(env, list, &raw mut count) })?;
        (from..count)
            .map(|index| {
                let mut element = ptr::null_mut();
                // SAFETY: as above.
                check(unsafe { sys::napi_get_element(env, list, index, &raw mut element) })?;
                self.bytes_of(element)
            })
            .collect()
    }

    /// Where the elements of a typed array are and how many. A detached one is empty.
    #[inline]
    fn array(&self, value: sys::napi_value, wanted: c_int) -> Result<(*mut c_void, usize)> {
        let (mut kind, mut length, mut start) = (0, 0, ptr::null_mut());
        // SAFETY: the value belongs to the call that goes on; what is not asked for is null.
        check(unsafe {
            sys::napi_get_typedarray_info(
                self.env.raw(),
                value,
                &raw mut kind,
                &raw mut length,
                &raw mut start,
                ptr::null_mut(),
                ptr::null_mut(),
            )
        })?;
        if kind != wanted {
            return Err(napi::Error::new(napi::Status::InvalidArg, "the array is of another type"));
        }
        // An empty array may have no address, and a slice needs one, however short.
        if start.is_null() || length == 0 {
            Ok((ptr::dangling_mut::<u64>().cast(), 0))
        } else {
            Ok((start, length))
        }
    }
}

// ---- polling -----------------------------------------------------------------------------------------------------------

type HandleSize = unsafe extern "C" fn(c_int) -> usize;
type SetData = unsafe extern "C" fn(*mut c_void, *mut c_void);
type GetData = unsafe extern "C" fn(*const c_void) -> *mut c_void;
type PollInit = unsafe extern "C" fn(*mut sys::uv_loop_s, *mut c_void, c_int) -> c_int;
type PollCallback = extern "C" fn(*mut c_void, c_int, c_int);
type PollStart = unsafe extern "C" fn(*mut c_void, c_int, PollCallback) -> c_int;
type PollStop = unsafe extern "C" fn(*mut c_void) -> c_int;
type Refer = unsafe extern "C" fn(*mut c_void);
type Close = unsafe extern "C" fn(*mut c_void, extern "C" fn(*mut c_void));

/// The functions of libuv, which Node's binary exports. They are looked up when needed, so that a program that has none of them
/// can load the module all the same, and be told.
struct Libuv {
    handle_size: HandleSize,
    handle_set_data: SetData,
    handle_get_data: GetData,
    poll_init: PollInit,
    poll_start: PollStart,
    poll_stop: PollStop,
    reference: Refer,
    unreference: Refer,
    close: Close,
}

/// `UV_POLL` among libuv's kinds of handles, and `UV_READABLE` among its events: parts of its stable ABI.
const UV_POLL: c_int = 8;
const UV_READABLE: c_int = 1;

fn libuv() -> Result<&'static Libuv> {
    static LIBUV: OnceLock<Option<Libuv>> = OnceLock::new();
    // SAFETY: each symbol has the type that libuv's header gives it.
    let found = LIBUV.get_or_init(|| unsafe {
        Some(Libuv {
            handle_size: std::mem::transmute::<*mut c_void, HandleSize>(symbol(c"uv_handle_size")?),
            handle_set_data: std::mem::transmute::<*mut c_void, SetData>(symbol(c"uv_handle_set_data")?),
            handle_get_data: std::mem::transmute::<*mut c_void, GetData>(symbol(c"uv_handle_get_data")?),
            poll_init: std::mem::transmute::<*mut c_void, PollInit>(symbol(c"uv_poll_init")?),
            poll_start: std::mem::transmute::<*mut c_void, PollStart>(symbol(c"uv_poll_start")?),
            poll_stop: std::mem::transmute::<*mut c_void, PollStop>(symbol(c"uv_poll_stop")?),
            reference: std::mem::transmute::<*mut c_void, Refer>(symbol(c"uv_ref")?),
            unreference: std::mem::transmute::<*mut c_void, Refer>(symbol(c"uv_unref")?),
            close: std::mem::transmute::<*mut c_void, Close>(symbol(c"uv_close")?),
        })
    });
    found.as_ref().ok_or_else(|| {
        napi::Error::from_reason("this program does not export libuv's functions, as Node.js does")
    })
}

fn symbol(name: &CStr) -> Option<*mut c_void> {
    // SAFETY: a string that ends in zero.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr().cast::<c_char>()) };
    (!found.is_null()).then_some(found)
}

/// What a [`Poll`] does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Watching {
    /// Nothing.
    No,
    /// Somebody waits: the callback is called, and the program goes on living.
    For,
    /// Somebody waits: the callback is called, and the program may end all the same.
    Quietly,
    /// Nobody waits just now: should the descriptor be readable it stops by itself.
    Idle,
}

impl Watching {
    /// Whether the callback is called, and held.
    fn calls(self) -> bool {
        matches!(self, Self::For | Self::Quietly)
    }
}

/// A descriptor that the event loop of its thread watches, level-triggered; nobody reads it. Dropped, it is closed.
pub(crate) struct Poll(Rc<Handle>);

struct Handle {
    /// libuv's `uv_poll_t`: its own from `poll_init` until `on_closed`, for which it has an `Rc` to this.
    memory: *mut c_void,
    layout: std::alloc::Layout,
    descriptor: OwnedFd,
    env: sys::napi_env,
    callback: sys::napi_ref,
    hook: Cell<sys::napi_async_cleanup_hook_handle>,
    watching: Cell<Watching>,
    is_closing: Cell<bool>,
}

impl Poll {
    /// Watches nothing yet. The callback is held weakly while nobody waits.
    pub(crate) fn new(env: &Env, descriptor: OwnedFd, callback: &Unknown<'_>) -> Result<Self> {
        let (uv, env) = (libuv()?, env.raw());
        let (mut event_loop, mut reference) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: the env is that of the present call, `callback` a value of it.
        unsafe {
            check(sys::napi_get_uv_event_loop(env, &raw mut event_loop))?;
            check(sys::napi_create_reference(env, callback.raw(), 0, &raw mut reference))?;
        }
        // SAFETY: a question without arguments but a kind that libuv has.
        let size = unsafe { (uv.handle_size)(UV_POLL) };
        let layout = std::alloc::Layout::from_size_align(size, 16)
            .map_err(|_| napi::Error::from_reason("libuv has no poll handles"))?;
        // SAFETY: the size of a handle is not 0.
        let memory = unsafe { std::alloc::alloc_zeroed(layout) }.cast::<c_void>();
        if memory.is_null() {
            std::alloc::handle_alloc_error(layout);
        }
        let handle = Rc::new(Handle {
            memory,
            layout,
            descriptor,
            env,
            callback: reference,
            hook: Cell::new(ptr::null_mut()),
            watching: Cell::new(Watching::No),
            is_closing: Cell::new(false),
        });
        // SAFETY: memory of the size that libuv asked for, the loop of this thread, a descriptor that lives until `on_closed`.
        let failed = unsafe { (uv.poll_init)(event_loop, memory, handle.descriptor.as_raw_fd()) };
        if failed != 0 {
            // SAFETY: the reference was made above.
            unsafe { sys::napi_delete_reference(env, reference) };
            return Err(napi::Error::from_reason(format!("uv_poll_init failed with {failed}")));
        }
        // SAFETY: the handle is libuv's now; the `Rc` is taken back in `on_closed`, behind which libuv forgets it.
        unsafe {
            (uv.handle_set_data)(memory, Rc::into_raw(Rc::clone(&handle)).cast_mut().cast());
            (uv.unreference)(memory);
        }
        let poll = Self(handle);
        let mut hook = ptr::null_mut();
        let argument = Rc::as_ptr(&poll.0).cast_mut().cast();
        // SAFETY: the hook is removed in `on_closed`, before the handle that is its argument can be gone.
        check(unsafe { sys::napi_add_async_cleanup_hook(env, Some(on_cleanup), argument, &raw mut hook) })?;
        poll.0.hook.set(hook);
        Ok(poll)
    }

    /// Begins or ends to watch.
    pub(crate) fn watch(&self, watching: Watching) {
        let (handle, Ok(uv)) = (&*self.0, libuv()) else { return };
        let before = handle.watching.get();
        if handle.is_closing.get() || before == watching {
            return;
        }
        handle.watching.set(watching);
        // SAFETY: the handle is open and its env lives, since the cleanup hook closes it before the env ends.
        unsafe {
            match (before, watching) {
                (Watching::No, _) => {
                    (uv.poll_start)(handle.memory, UV_READABLE, on_readable);
                }
                (_, Watching::No) => {
                    (uv.poll_stop)(handle.memory);
                }
                _ => {}
            }
            let mut count = 0;
            match (before.calls(), watching.calls()) {
                (false, true) => {
                    sys::napi_reference_ref(handle.env, handle.callback, &raw mut count);
                }
                (true, false) => {
                    sys::napi_reference_unref(handle.env, handle.callback, &raw mut count);
                }
                _ => {}
            }
            // libuv looks whether it is so already.
            if watching == Watching::For {
                (uv.reference)(handle.memory)
            } else {
                (uv.unreference)(handle.memory)
            }
        }
    }
}

impl Drop for Poll {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Handle {
    fn close(&self) {
        let Ok(uv) = libuv() else { return };
        if self.is_closing.replace(true) {
            return;
        }
        // SAFETY: open until now, and this runs on its thread, while the env still is; libuv calls `on_closed` later.
        unsafe {
            sys::napi_delete_reference(self.env, self.callback);
            (uv.close)(self.memory, on_closed);
        }
    }

    /// Calls the callback as the event loop calls those of Node: behind it come microtasks and ticks.
    fn call(&self) {
        let (mut scope, mut callback, mut global) = (ptr::null_mut(), ptr::null_mut(), ptr::null_mut());
        // SAFETY: the handle is open, so the env lives; this runs on its thread, outside of any JavaScript.
        unsafe {
            if sys::napi_open_handle_scope(self.env, &raw mut scope) != sys::Status::napi_ok {
                return;
            }
            let found = sys::napi_get_reference_value(self.env, self.callback, &raw mut callback);
            if found == sys::Status::napi_ok && !callback.is_null() {
                sys::napi_get_global(self.env, &raw mut global);
                let (none, nothing) = (ptr::null_mut(), ptr::null());
                sys::napi_make_callback(self.env, none, global, callback, 0, nothing, ptr::null_mut());
                self.pass_on_exception();
            }
            sys::napi_close_handle_scope(self.env, scope);
        }
    }

    /// What was thrown in a tick behind the callback is uncaught, as anywhere else.
    fn pass_on_exception(&self) {
        let (mut is_pending, mut exception) = (false, ptr::null_mut());
        // SAFETY: as for `call`.
        unsafe {
            sys::napi_is_exception_pending(self.env, &raw mut is_pending);
            if is_pending
                && sys::napi_get_and_clear_last_exception(self.env, &raw mut exception)
                    == sys::Status::napi_ok
            {
                sys::napi_fatal_exception(self.env, exception);
            }
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, and libuv does not have it any more, or never had.
        unsafe { std::alloc::dealloc(self.memory.cast(), self.layout) };
    }
}

extern "C" fn on_readable(memory: *mut c_void, status: c_int, _: c_int) {
    let Ok(uv) = libuv() else { return };
    // SAFETY: the data of a handle that is open is the `Rc` of its `Handle`; it is kept while JavaScript may close it.
    let handle = unsafe {
        let data = (uv.handle_get_data)(memory).cast::<Handle>().cast_const();
        Rc::increment_strong_count(data);
        Rc::from_raw(data)
    };
    if status < 0 && handle.watching.get() != Watching::No {
        // libuv stopped after an error of the descriptor; those who wait are to find out what it means.
        // SAFETY: the handle is open.
        unsafe { (uv.poll_start)(memory, UV_READABLE, on_readable) };
    }
    match handle.watching.get() {
        Watching::For | Watching::Quietly => handle.call(),
        Watching::Idle | Watching::No => {
            // SAFETY: the handle is open.
            unsafe { (uv.poll_stop)(memory) };
            handle.watching.set(Watching::No);
        }
    }
}

extern "C" fn on_closed(memory: *mut c_void) {
    let Ok(uv) = libuv() else { return };
    // SAFETY: the `Rc` that was put there is taken back once; the hook was added once, and is removed once.
    unsafe {
        let handle = Rc::from_raw((uv.handle_get_data)(memory).cast::<Handle>().cast_const());
        let hook = handle.hook.get();
        if !hook.is_null() {
            sys::napi_remove_async_cleanup_hook(hook);
        }
    }
}

/// The thread's env ends, which waits until the handle is closed.
extern "C" fn on_cleanup(_: sys::napi_async_cleanup_hook_handle, handle: *mut c_void) {
    // SAFETY: the hook is removed before its handle is gone.
    unsafe { &*handle.cast::<Handle>() }.close();
}

// ---- arrays over memory of ours ------------------------------------------------------------------------------------------

/// What owns memory that stays where it is while the owner, in its box, is not changed. Implemented here only.
pub(crate) trait Memory: 'static {
    /// Where it begins and its length.
    fn span(&mut self) -> (*mut c_void, usize);
}

impl Memory for machnet_client::Message {
    /// In the value itself, in the sidecar's buffers, or in a vector's memory. JavaScript may write to it; that is private to this
    /// process, or was given to it.
    fn span(&mut self) -> (*mut c_void, usize) {
        (self.as_ptr().cast_mut().cast(), self.len())
    }
}

impl Memory for machnet_client::TxLoan {
    /// In the value itself, in the buffers to send, or in a vector's memory.
    fn span(&mut self) -> (*mut c_void, usize) {
        (self.as_mut_ptr().cast(), self.len())
    }
}

thread_local! {
    /// Whether arrays over foreign memory may be made. Electron forbids them.
    static MAY_EXPOSE: Cell<bool> = const { Cell::new(true) };
}

/// From now on this thread makes no arrays over foreign memory, as in Electron: for tests.
pub(crate) fn forbid_exposing() {
    MAY_EXPOSE.set(false);
}

/// Memory that JavaScript sees as an `ArrayBuffer`. It is freed when JavaScript cannot reach it any more, or taken back before.
pub(crate) struct Exposed<Owner>(Rc<Cell<Option<Box<Owner>>>>);

/// What becomes of an attempt to expose memory: the owner comes back where JavaScript may not see foreign memory.
pub(crate) enum Exposing<'env, Owner> {
    Done(Exposed<Owner>, Unknown<'env>),
    Forbidden(Box<Owner>),
}

struct Hint<Owner> {
    owner: Rc<Cell<Option<Box<Owner>>>>,
    then: Option<Box<dyn FnOnce()>>,
}

impl<Owner: Memory> Exposed<Owner> {
    /// Makes an array over the owner's memory. `then` is called, on this thread, when the array is gone or was taken back.
    pub(crate) fn make<'env>(
        env: &'env Env,
        mut owner: Box<Owner>,
        then: Option<Box<dyn FnOnce()>>,
    ) -> Result<Exposing<'env, Owner>> {
        if !MAY_EXPOSE.get() {
            return Ok(Exposing::Forbidden(owner));
        }
        let (start, length) = owner.span();
        let shared = Rc::new(Cell::new(Some(owner)));
        let hint = Box::into_raw(Box::new(Hint { owner: Rc::clone(&shared), then }));
        let (mut array, finalizer): (_, sys::napi_finalize) = (ptr::null_mut(), Some(finalize::<Owner>));
        // SAFETY: the memory stays, as `Memory` says, until the hint is finalized or `take_back` detached the array.
        let status = unsafe {
            let (env, hint) = (env.raw(), hint.cast());
            sys::napi_create_external_arraybuffer(env, start, length, finalizer, hint, &raw mut array)
        };
        if status != sys::Status::napi_ok {
            // SAFETY: Node did not take the hint. What is to be done behind the array is not done.
            drop(unsafe { Box::from_raw(hint) });
            if status == sys::Status::napi_no_external_buffers_allowed {
                forbid_exposing();
                return shared
                    .take()
                    .map(Exposing::Forbidden)
                    .ok_or_else(|| napi::Error::from_reason("lost"));
            }
            check(status)?;
        }
        // SAFETY: just made in this env.
        Ok(Exposing::Done(Self(shared), unsafe { Unknown::from_raw_unchecked(env.raw(), array) }))
    }

    /// Takes the memory away from its array. None if the array has lost it already: what has it now keeps the owner alive.
    pub(crate) fn take_back(&self, env: &Env, array: &Unknown<'_>) -> Result<Option<Box<Owner>>> {
        let (mut start, mut length) = (ptr::null_mut(), 0);
        // SAFETY: a value of the present call.
        unsafe {
            check(sys::napi_get_arraybuffer_info(env.raw(), array.raw(), &raw mut start, &raw mut length))?;
        }
        let Some(mut owner) = self.0.take() else { return Ok(None) };
        if owner.span() != (start, length) {
            self.0.set(Some(owner));
            return Ok(None);
        }
        // SAFETY: as above. The array is that over the owner's memory, and has none behind this.
        let detached = check(unsafe { sys::napi_detach_arraybuffer(env.raw(), array.raw()) });
        if let Err(error) = detached {
            self.0.set(Some(owner));
            return Err(error);
        }
        Ok(Some(owner))
    }
}

extern "C" fn finalize<Owner>(_: sys::napi_env, _: *mut c_void, hint: *mut c_void) {
    // SAFETY: the hint is the box that was given with the array, and Node calls this once.
    let hint = unsafe { Box::from_raw(hint.cast::<Hint<Owner>>()) };
    drop(hint.owner.take());
    if let Some(then) = hint.then {
        then();
    }
}
