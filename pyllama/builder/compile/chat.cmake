# The library of csrc/chat: upstream's chat templates, parsers and schema converter behind a few C functions.
# Its own copy of the parts of `common` that those need, hidden, so that nothing of a pin's C++ is exported
# and a program that links to `common` as well is not disturbed. Compiled when it is asked for.

function(pyllama_add_chat)
    set(common "${CMAKE_SOURCE_DIR}/common")
    set(sources "${PYLLAMA_CHAT_SOURCE}/pyllama_chat.cpp" "${common}/common.cpp")
    foreach(pattern IN ITEMS "chat*" "jinja/*" "json*" "peg-parser" "regex-partial" "trie" "unicode")
        file(GLOB found "${common}/${pattern}.cpp")
        list(APPEND sources ${found})
    endforeach()
    # One unit instead of 17: nearly all of their time goes into the same headers.
    file(GLOB parsers "${common}/parsers/*.cpp")
    set_source_files_properties(${parsers} PROPERTIES UNITY_GROUP parsers)

    add_library(pyllama-chat SHARED EXCLUDE_FROM_ALL ${sources} ${parsers})
    set_target_properties(pyllama-chat PROPERTIES
        CXX_VISIBILITY_PRESET hidden
        VISIBILITY_INLINES_HIDDEN ON
        UNITY_BUILD ON
        UNITY_BUILD_MODE GROUP)
    target_compile_features(pyllama-chat PRIVATE cxx_std_17)
    target_include_directories(pyllama-chat PRIVATE
        "${PYLLAMA_CHAT_SOURCE}" "${common}" "${CMAKE_SOURCE_DIR}/vendor")
    target_link_libraries(pyllama-chat PRIVATE llama)
    if(NOT MSVC)
        # -O1: half the time to compile, and reading an answer is no slower than making it by far.
        target_compile_options(pyllama-chat PRIVATE
            -O1 -ffunction-sections -fdata-sections "-ffile-prefix-map=${PYLLAMA_CHAT_SOURCE}=.")
        # Of common.cpp a dozen functions are needed; what the others need is not here.
        if(APPLE)
            target_link_options(pyllama-chat PRIVATE -Wl,-dead_strip)
        else()
            target_link_options(pyllama-chat PRIVATE -Wl,--gc-sections -Wl,-z,defs)
        endif()
    endif()
endfunction()

cmake_language(DEFER DIRECTORY "${CMAKE_SOURCE_DIR}" CALL pyllama_add_chat)
