# Included after upstream's project(): gives every library of a build one function,
# pyllama_identity(), that says what the library was built from. Runs when all of upstream's
# own lists have been read, so no upstream file needs a patch for it.

function(pyllama_add_identity)
    foreach(target IN LISTS PYLLAMA_IDENTITY_TARGETS)
        if(TARGET ${target})
            target_sources(${target} PRIVATE "${PYLLAMA_IDENTITY_SOURCE}")
        endif()
    endforeach()
endfunction()

cmake_language(DEFER DIRECTORY "${CMAKE_SOURCE_DIR}" CALL pyllama_add_identity)
