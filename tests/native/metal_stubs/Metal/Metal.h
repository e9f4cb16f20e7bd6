// What ggml's Metal back end uses of Metal, for compiling it where there is no Mac: types and signatures as Apple
// documents them, nothing else. metal_stub.m is a device behind them.
#pragma once

#import <Foundation/Foundation.h>

#include <Block.h>
#include <dispatch/dispatch.h>

// Apple's nil goes with every pointer, GCC's only with objects.
#undef nil
#define nil ((void *) 0)

@interface NSFileManager (NotInGNUstep)
- (NSString *) destinationOfSymbolicLinkAtPath:(NSString *) path error:(NSError **) error;
@end

@protocol MTLDevice;

typedef struct {
    NSUInteger width, height, depth;
} MTLSize;

static inline MTLSize MTLSizeMake(NSUInteger width, NSUInteger height, NSUInteger depth) {
    return (MTLSize) { width, height, depth };
}

typedef NS_ENUM(NSInteger, MTLGPUFamily) {
    MTLGPUFamilyApple1  = 1001,
    MTLGPUFamilyApple6  = 1006,
    MTLGPUFamilyApple7  = 1007,
    MTLGPUFamilyCommon1 = 3001,
};

typedef NS_ENUM(NSUInteger, MTLDeviceLocation) {
    MTLDeviceLocationBuiltIn  = 0,
    MTLDeviceLocationExternal = 2,
};

typedef NS_ENUM(NSUInteger, MTLDataType) {
    MTLDataTypeInt   = 29,
    MTLDataTypeShort = 37,
    MTLDataTypeBool  = 53,
};

typedef NS_ENUM(NSUInteger, MTLCommandBufferStatus) {
    MTLCommandBufferStatusNotEnqueued = 0,
    MTLCommandBufferStatusEnqueued    = 1,
    MTLCommandBufferStatusCommitted   = 2,
    MTLCommandBufferStatusScheduled   = 3,
    MTLCommandBufferStatusCompleted   = 4,
    MTLCommandBufferStatusError       = 5,
};

typedef NS_ENUM(NSUInteger, MTLDispatchType) {
    MTLDispatchTypeSerial,
    MTLDispatchTypeConcurrent,
};

typedef NS_OPTIONS(NSUInteger, MTLBarrierScope) {
    MTLBarrierScopeBuffers = 1,
};

typedef NS_OPTIONS(NSUInteger, MTLResourceOptions) {
    MTLResourceStorageModeShared  = 0,
    MTLResourceStorageModePrivate = 2 << 4,
};

typedef NS_ENUM(NSInteger, MTLCaptureDestination) {
    MTLCaptureDestinationGPUTraceDocument = 2,
};

@protocol MTLBuffer <NSObject>
@property (readonly) NSUInteger length;
- (void *) contents;
@end

@protocol MTLEvent <NSObject>
@end

@protocol MTLSharedEvent <MTLEvent>
@property (readwrite) uint64_t signaledValue;
- (BOOL) waitUntilSignaledValue:(uint64_t) value timeoutMS:(uint64_t) milliseconds;
@end

@protocol MTLFunction <NSObject>
@end

@protocol MTLComputePipelineState <NSObject>
@property (readonly) NSUInteger maxTotalThreadsPerThreadgroup;
@property (readonly) NSUInteger threadExecutionWidth;
@end

@interface MTLFunctionConstantValues : NSObject
- (void) setConstantValue:(const void *) value type:(MTLDataType) type atIndex:(NSUInteger) index;
@end

@interface MTLCompileOptions : NSObject
@property (readwrite, copy) NSDictionary * preprocessorMacros;
@end

@protocol MTLLibrary <NSObject>
- (id<MTLFunction>) newFunctionWithName:(NSString *) name;
- (id<MTLFunction>) newFunctionWithName:(NSString *) name
                         constantValues:(MTLFunctionConstantValues *) values
                                  error:(NSError **) error;
@end

@protocol MTLCommandEncoder <NSObject>
- (void) endEncoding;
- (void) pushDebugGroup:(NSString *) name;
- (void) popDebugGroup;
@end

@protocol MTLBlitCommandEncoder <MTLCommandEncoder>
- (void) copyFromBuffer:(id<MTLBuffer>) source
           sourceOffset:(NSUInteger) sourceOffset
               toBuffer:(id<MTLBuffer>) destination
      destinationOffset:(NSUInteger) destinationOffset
                   size:(NSUInteger) size;
- (void) fillBuffer:(id<MTLBuffer>) buffer range:(NSRange) range value:(uint8_t) value;
@end

@protocol MTLComputeCommandEncoder <MTLCommandEncoder>
- (void) setComputePipelineState:(id<MTLComputePipelineState>) state;
- (void) setBytes:(const void *) bytes length:(NSUInteger) length atIndex:(NSUInteger) index;
- (void) setBuffer:(id<MTLBuffer>) buffer offset:(NSUInteger) offset atIndex:(NSUInteger) index;
- (void) setThreadgroupMemoryLength:(NSUInteger) length atIndex:(NSUInteger) index;
- (void) dispatchThreadgroups:(MTLSize) groups threadsPerThreadgroup:(MTLSize) threads;
- (void) memoryBarrierWithScope:(MTLBarrierScope) scope;
@end

@protocol MTLCommandBuffer;
typedef void (^MTLCommandBufferHandler)(id<MTLCommandBuffer>);

@protocol MTLCommandBuffer <NSObject>
@property (readonly) MTLCommandBufferStatus status;
@property (readonly) NSError *              error;
- (id<MTLBlitCommandEncoder>) blitCommandEncoder;
- (id<MTLComputeCommandEncoder>) computeCommandEncoder;
- (id<MTLComputeCommandEncoder>) computeCommandEncoderWithDispatchType:(MTLDispatchType) type;
- (void) encodeSignalEvent:(id<MTLEvent>) event value:(uint64_t) value;
- (void) encodeWaitForEvent:(id<MTLEvent>) event value:(uint64_t) value;
- (void) addCompletedHandler:(MTLCommandBufferHandler) handler;
- (void) enqueue;
- (void) commit;
- (void) waitUntilCompleted;
@end

@protocol MTLCommandQueue <NSObject>
- (id<MTLCommandBuffer>) commandBuffer;
- (id<MTLCommandBuffer>) commandBufferWithUnretainedReferences;
@end

@protocol MTLDevice <NSObject>
@property (readonly) NSString *        name;
@property (readonly) BOOL              hasUnifiedMemory;
@property (readonly) MTLDeviceLocation location;
@property (readonly) NSUInteger        maxBufferLength;
@property (readonly) NSUInteger        maxThreadgroupMemoryLength;
@property (readonly) NSUInteger        currentAllocatedSize;
@property (readonly) uint64_t          recommendedMaxWorkingSetSize;
- (BOOL) supportsFamily:(MTLGPUFamily) family;
- (id<MTLCommandQueue>) newCommandQueue;
- (id<MTLSharedEvent>) newSharedEvent;
- (id<MTLBuffer>) newBufferWithLength:(NSUInteger) length options:(MTLResourceOptions) options;
- (id<MTLBuffer>) newBufferWithBytes:(const void *) bytes length:(NSUInteger) length options:(MTLResourceOptions) options;
- (id<MTLBuffer>) newBufferWithBytesNoCopy:(void *) bytes
                                    length:(NSUInteger) length
                                   options:(MTLResourceOptions) options
                               deallocator:(void (^)(void *, NSUInteger)) deallocator;
- (id<MTLLibrary>) newLibraryWithURL:(NSURL *) url error:(NSError **) error;
- (id<MTLLibrary>) newLibraryWithSource:(NSString *) source options:(MTLCompileOptions *) options error:(NSError **) error;
- (id<MTLComputePipelineState>) newComputePipelineStateWithFunction:(id<MTLFunction>) function error:(NSError **) error;
@end

id<MTLDevice> MTLCreateSystemDefaultDevice(void);

@protocol MTLCaptureScope <NSObject>
- (void) beginScope;
- (void) endScope;
@end

@interface MTLCaptureDescriptor : NSObject
@property (readwrite, retain) id                    captureObject;
@property (readwrite) MTLCaptureDestination         destination;
@property (readwrite, copy) NSURL *                 outputURL;
@end

@interface MTLCaptureManager : NSObject
+ (MTLCaptureManager *) sharedCaptureManager;
- (id<MTLCaptureScope>) newCaptureScopeWithDevice:(id<MTLDevice>) device;
- (BOOL) startCaptureWithDescriptor:(MTLCaptureDescriptor *) descriptor error:(NSError **) error;
- (void) stopCapture;
@end
