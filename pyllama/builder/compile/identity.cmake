# Included after upstream's project(): gives every library of a build one function,
# pyllama_identity(), that says what the library was built from. Runs when all of upstream's
# own lists have been read, so no upstream file needs a patch for it.

function(pyllama_targets folder found)
    get_property(here DIRECTORY "${folder}" PROPERTY BUILDSYSTEM_TARGETS)
    get_property(below DIRECTORY "${folder}" PROPERTY SUBDIRECTORIES)
    foreach(sub IN LISTS below)
        pyllama_targets("${sub}" inner)
        list(APPEND here ${inner})
    endforeach()
    set(${found} ${here} PARENT_SCOPE)
endfunction()

function(pyllama_add_identity)
    pyllama_targets("${CMAKE_SOURCE_DIR}" targets)
    foreach(target IN LISTS targets)
        foreach(pattern IN LISTS PYLLAMA_IDENTITY_TARGETS)
            if(target MATCHES "^${pattern}$")
                get_target_property(type ${target} TYPE)
                if(type MATCHES "SHARED_LIBRARY|MODULE_LIBRARY")
                    target_sources(${target} PRIVATE "${PYLLAMA_IDENTITY_SOURCE}")
                    if(WIN32)  # MinGW's names would begin with lib, as upstream's own do not there
                        set_target_properties(${target} PROPERTIES PREFIX "")
                    endif()
                endif()
            endif()
        endforeach()
    endforeach()
    # CUDA's libraries lie beside us in site-packages when they are the package index's.
    if(TARGET ggml-cuda AND PYLLAMA_CUDA_RUN_PATHS)
        set_property(TARGET ggml-cuda APPEND PROPERTY INSTALL_RPATH ${PYLLAMA_CUDA_RUN_PATHS})
    endif()
endfunction()

include("${CMAKE_CURRENT_LIST_DIR}/chat.cmake")
cmake_language(DEFER DIRECTORY "${CMAKE_SOURCE_DIR}" CALL pyllama_add_identity)
