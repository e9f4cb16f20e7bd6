// A Metal device in host memory, as lazy as a device may be: what is committed is carried out, in order, when
// somebody waits. So whoever forgets to wait finds nothing, at every run. Private buffers have an address that only
// this file knows. Kernels are not carried out. One thread at a time.
#import <Metal/Metal.h>

#include "metal_stub.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static NSMutableArray * pending; // of StubCommandBuffer, in the order of their commits
static size_t           copies, copied_bytes, violations;
static int              fault = -1;

void metal_stub_fail_next(enum metal_stub_fault f) { fault = (int) f; }
size_t metal_stub_copies(void) { return copies; }
size_t metal_stub_copied_bytes(void) { return copied_bytes; }
size_t metal_stub_violations(void) { return violations; }
size_t metal_stub_pending(void) { return [pending count]; }

static bool fails(enum metal_stub_fault f) {
    const bool res = fault == (int) f;
    if (res) {
        fault = -1;
    }
    return res;
}

@interface StubBuffer : NSObject <MTLBuffer> {
  @public
    char *     bytes;
    NSUInteger length;
    BOOL       owned;
    BOOL       shared;
}
@end

@implementation StubBuffer
- (NSUInteger) length { return length; }
- (void *) contents { return shared ? bytes : NULL; }
- (void) dealloc {
    if (owned) {
        free(bytes);
    }
    [super dealloc];
}
@end

@interface StubEvent : NSObject <MTLSharedEvent> {
    uint64_t signaled;
}
@end

static void run_until(id last);

@implementation StubEvent
- (uint64_t) signaledValue { return signaled; }
- (void) setSignaledValue:(uint64_t) value { signaled = value; }
- (BOOL) waitUntilSignaledValue:(uint64_t) value timeoutMS:(uint64_t) milliseconds {
    (void) milliseconds;
    run_until(nil);
    return signaled >= value;
}
@end

static void must_fit(StubBuffer * buffer, NSUInteger offset, NSUInteger size, const char * what) {
    if (buffer == nil || offset > buffer->length || size > buffer->length - offset) {
        fprintf(stderr, "metal_stub: %s: %lu + %lu is not in a buffer of %lu bytes\n", what, (unsigned long) offset,
                (unsigned long) size, (unsigned long) (buffer ? buffer->length : 0));
        abort();
    }
}

@interface StubEncoder : NSObject <MTLBlitCommandEncoder, MTLComputeCommandEncoder> {
  @public
    NSMutableArray * work; // of blocks
    NSMutableArray * kept; // resources; nil when the command buffer does not retain them
}
@end

@implementation StubEncoder
- (void) dealloc {
    [work release];
    [kept release];
    [super dealloc];
}
- (void) endEncoding {}
- (void) pushDebugGroup:(NSString *) name { (void) name; }
- (void) popDebugGroup {}

- (void) add:(void (^)(void)) step {
    void (^later)(void) = Block_copy(step);
    [work addObject:[NSValue valueWithPointer:(void *) later]];
}

- (void) copyFromBuffer:(id<MTLBuffer>) source
           sourceOffset:(NSUInteger) sourceOffset
               toBuffer:(id<MTLBuffer>) destination
      destinationOffset:(NSUInteger) destinationOffset
                   size:(NSUInteger) size {
    StubBuffer * from = (StubBuffer *) source;
    StubBuffer * to   = (StubBuffer *) destination;
    must_fit(from, sourceOffset, size, "copy from");
    must_fit(to, destinationOffset, size, "copy to");

    char * a = from->bytes + sourceOffset;
    char * b = to->bytes + destinationOffset;
    if ((sourceOffset | destinationOffset | size) % 4 != 0 || (a < b + size && b < a + size)) {
        violations++;
    }
    [kept addObject:from];
    [kept addObject:to];
    [self add:^{
        memmove(b, a, size);
        copies++;
        copied_bytes += size;
    }];
}

- (void) fillBuffer:(id<MTLBuffer>) buffer range:(NSRange) range value:(uint8_t) value {
    StubBuffer * to = (StubBuffer *) buffer;
    must_fit(to, range.location, range.length, "fill");
    char * b = to->bytes + range.location;
    [kept addObject:to];
    [self add:^{
        memset(b, value, range.length);
    }];
}

- (void) setComputePipelineState:(id<MTLComputePipelineState>) state { (void) state; }
- (void) setBytes:(const void *) bytes length:(NSUInteger) length atIndex:(NSUInteger) index {
    (void) bytes, (void) length, (void) index;
}
- (void) setBuffer:(id<MTLBuffer>) buffer offset:(NSUInteger) offset atIndex:(NSUInteger) index {
    (void) buffer, (void) offset, (void) index;
}
- (void) setThreadgroupMemoryLength:(NSUInteger) length atIndex:(NSUInteger) index { (void) length, (void) index; }
- (void) dispatchThreadgroups:(MTLSize) groups threadsPerThreadgroup:(MTLSize) threads { (void) groups, (void) threads; }
- (void) memoryBarrierWithScope:(MTLBarrierScope) scope { (void) scope; }
@end

@interface StubCommandBuffer : NSObject <MTLCommandBuffer> {
    NSMutableArray *        work;
    NSMutableArray *        kept;
    MTLCommandBufferHandler completed;
    MTLCommandBufferStatus  state;
    BOOL                    broken;
}
- (id) initRetaining:(BOOL) retaining;
- (void) carryOut;
@end

@implementation StubCommandBuffer
- (id) initRetaining:(BOOL) retaining {
    self   = [super init];
    work   = [NSMutableArray new];
    kept   = retaining ? [NSMutableArray new] : nil;
    broken = fails(METAL_STUB_ERROR);
    return self;
}
- (void) dealloc {
    for (NSValue * step in work) {
        Block_release([step pointerValue]);
    }
    [work release];
    [kept release];
    if (completed) {
        Block_release(completed);
    }
    [super dealloc];
}
- (MTLCommandBufferStatus) status { return state; }
- (NSError *) error {
    NSDictionary * info = [NSDictionary dictionaryWithObject:@"stub error" forKey:NSLocalizedDescriptionKey];
    return state == MTLCommandBufferStatusError ? [NSError errorWithDomain:@"stub" code:1 userInfo:info] : nil;
}
- (id) encoder {
    if (fails(METAL_STUB_NO_ENCODER)) {
        return nil;
    }
    StubEncoder * res = [[StubEncoder new] autorelease];
    res->work         = [work retain];
    res->kept         = [kept retain];
    return res;
}
- (id<MTLBlitCommandEncoder>) blitCommandEncoder { return [self encoder]; }
- (id<MTLComputeCommandEncoder>) computeCommandEncoder { return [self encoder]; }
- (id<MTLComputeCommandEncoder>) computeCommandEncoderWithDispatchType:(MTLDispatchType) type {
    (void) type;
    return [self encoder];
}
- (void) encodeSignalEvent:(id<MTLEvent>) event value:(uint64_t) value {
    void (^later)(void) = Block_copy(^{
        [(StubEvent *) event setSignaledValue:value];
    });
    [work addObject:[NSValue valueWithPointer:(void *) later]];
}
- (void) encodeWaitForEvent:(id<MTLEvent>) event value:(uint64_t) value { (void) event, (void) value; } // all is in order
- (void) addCompletedHandler:(MTLCommandBufferHandler) handler { completed = Block_copy(handler); }
- (void) enqueue { state = MTLCommandBufferStatusEnqueued; }
- (void) commit {
    state = MTLCommandBufferStatusCommitted;
    if (pending == nil) {
        pending = [NSMutableArray new];
    }
    [pending addObject:self];
}
- (void) waitUntilCompleted { run_until(self); }
- (void) carryOut {
    if (!broken) {
        for (NSValue * step in work) {
            ((void (^)(void)) [step pointerValue])();
        }
    }
    state = broken ? MTLCommandBufferStatusError : MTLCommandBufferStatusCompleted;
    if (completed) {
        completed(self);
    }
}
@end

// Carries out what is pending, up to and including `last`, or all of it.
static void run_until(id last) {
    while ([pending count] > 0 && (last == nil || [pending indexOfObjectIdenticalTo:last] != NSNotFound)) {
        StubCommandBuffer * first = [[pending objectAtIndex:0] retain];
        [pending removeObjectAtIndex:0];
        [first carryOut];
        [first release];
    }
}

@interface StubQueue : NSObject <MTLCommandQueue>
@end

@implementation StubQueue
- (id) commandBuffer:(BOOL) retaining {
    return fails(METAL_STUB_NO_COMMAND_BUFFER) ? nil : [[[StubCommandBuffer alloc] initRetaining:retaining] autorelease];
}
- (id<MTLCommandBuffer>) commandBuffer { return [self commandBuffer:YES]; }
- (id<MTLCommandBuffer>) commandBufferWithUnretainedReferences { return [self commandBuffer:NO]; }
@end

@interface StubLibrary : NSObject <MTLLibrary>
@end

@implementation StubLibrary
- (id<MTLFunction>) newFunctionWithName:(NSString *) name { (void) name; return nil; }
- (id<MTLFunction>) newFunctionWithName:(NSString *) name
                         constantValues:(MTLFunctionConstantValues *) values
                                  error:(NSError **) error {
    (void) name, (void) values, (void) error;
    return nil;
}
@end

@interface StubDevice : NSObject <MTLDevice>
@end

@implementation StubDevice
- (NSString *) name { return @"stub"; }
- (BOOL) hasUnifiedMemory { return YES; }
- (MTLDeviceLocation) location { return MTLDeviceLocationBuiltIn; }
- (NSUInteger) maxBufferLength {
    const char * limit = getenv("METAL_STUB_MAX_BUFFER"); // bytes
    return limit ? strtoul(limit, NULL, 10) : 1ul << 30;
}
- (NSUInteger) maxThreadgroupMemoryLength { return 32768; }
- (NSUInteger) currentAllocatedSize { return 0; }
- (uint64_t) recommendedMaxWorkingSetSize { return 1ull << 30; }
- (BOOL) supportsFamily:(MTLGPUFamily) family { (void) family; return NO; }
- (id<MTLCommandQueue>) newCommandQueue { return [StubQueue new]; }
- (id<MTLSharedEvent>) newSharedEvent { return [StubEvent new]; }

- (id<MTLBuffer>) newBufferWithLength:(NSUInteger) length options:(MTLResourceOptions) options {
    StubBuffer * res = [StubBuffer new];
    res->bytes       = calloc(1, length);
    res->length      = length;
    res->owned       = YES;
    res->shared      = options != MTLResourceStorageModePrivate;
    return res;
}
- (id<MTLBuffer>) newBufferWithBytes:(const void *) bytes length:(NSUInteger) length options:(MTLResourceOptions) options {
    StubBuffer * res = (StubBuffer *) [self newBufferWithLength:length options:options];
    memcpy(res->bytes, bytes, length);
    return res;
}
- (id<MTLBuffer>) newBufferWithBytesNoCopy:(void *) bytes
                                    length:(NSUInteger) length
                                   options:(MTLResourceOptions) options
                               deallocator:(void (^)(void *, NSUInteger)) deallocator {
    (void) options, (void) deallocator;
    StubBuffer * res = [StubBuffer new];
    res->bytes       = bytes;
    res->length      = length;
    res->shared      = YES;
    return res;
}
- (id<MTLLibrary>) newLibraryWithURL:(NSURL *) url error:(NSError **) error { (void) url, (void) error; return [StubLibrary new]; }
- (id<MTLLibrary>) newLibraryWithSource:(NSString *) source options:(MTLCompileOptions *) options error:(NSError **) error {
    (void) source, (void) options, (void) error;
    return [StubLibrary new];
}
- (id<MTLComputePipelineState>) newComputePipelineStateWithFunction:(id<MTLFunction>) function error:(NSError **) error {
    (void) function, (void) error;
    return nil;
}
@end

id<MTLDevice> MTLCreateSystemDefaultDevice(void) { return [StubDevice new]; }

// What the back end names, but no test needs.

@implementation MTLFunctionConstantValues
- (void) setConstantValue:(const void *) value type:(MTLDataType) type atIndex:(NSUInteger) index {
    (void) value, (void) type, (void) index;
}
@end

@implementation MTLCompileOptions
- (NSDictionary *) preprocessorMacros { return nil; }
- (void) setPreprocessorMacros:(NSDictionary *) macros { (void) macros; }
@end

@implementation MTLCaptureDescriptor
@dynamic captureObject, destination, outputURL;
@end

@implementation MTLCaptureManager
+ (MTLCaptureManager *) sharedCaptureManager { return nil; }
- (id<MTLCaptureScope>) newCaptureScopeWithDevice:(id<MTLDevice>) device { (void) device; return nil; }
- (BOOL) startCaptureWithDescriptor:(MTLCaptureDescriptor *) descriptor error:(NSError **) error {
    (void) descriptor, (void) error;
    return NO;
}
- (void) stopCapture {}
@end

// The source of the kernels, which is never compiled.
const char ggml_metallib_start[] = "//";
const char ggml_metallib_end[]   = "";

// libdispatch: what is given to a queue runs at once, and who waits sets the device to work.

struct stub_dispatch {
    intptr_t value;
};

static struct stub_dispatch * object(intptr_t value) {
    struct stub_dispatch * res = malloc(sizeof(*res));
    res->value                 = value;
    return res;
}

dispatch_semaphore_t dispatch_semaphore_create(intptr_t value) { return object(value); }
intptr_t dispatch_semaphore_signal(dispatch_semaphore_t semaphore) { return ++semaphore->value; }
intptr_t dispatch_semaphore_wait(dispatch_semaphore_t semaphore, dispatch_time_t timeout) {
    (void) timeout;
    run_until(nil);
    if (semaphore->value <= 0) {
        fprintf(stderr, "metal_stub: nothing will ever signal this semaphore\n");
        abort();
    }
    semaphore->value--;
    return 0;
}

dispatch_queue_t dispatch_queue_create(const char * label, void * attributes) { (void) label, (void) attributes; return object(0); }
dispatch_queue_t dispatch_get_global_queue(intptr_t quality, uintptr_t flags) { (void) quality, (void) flags; return NULL; }
void dispatch_apply(size_t times, dispatch_queue_t queue, void (^work)(size_t)) {
    (void) queue;
    for (size_t i = 0; i < times; ++i) {
        work(i);
    }
}

dispatch_group_t dispatch_group_create(void) { return object(0); }
void dispatch_group_async(dispatch_group_t group, dispatch_queue_t queue, void (^work)(void)) { (void) group, (void) queue; work(); }
intptr_t dispatch_group_wait(dispatch_group_t group, dispatch_time_t timeout) { (void) group, (void) timeout; return 0; }
void dispatch_release(struct stub_dispatch * object) { free(object); }
