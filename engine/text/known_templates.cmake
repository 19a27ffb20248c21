# Compiles templates/*.jinja into a table of pairs: sets KNOWN_TEMPLATES_SOURCE.
file(GLOB _training CONFIGURE_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/templates/*_training.jinja)
set(_table "")
foreach(_file ${_training})
  string(REGEX REPLACE "_training\\.jinja$" ".jinja" _original_file ${_file})
  file(READ ${_original_file} _original)
  file(READ ${_file} _variant)
  string(APPEND _table
    "    {R\"~~jinja~~(${_original})~~jinja~~\",\n     R\"~~jinja~~(${_variant})~~jinja~~\"},\n")
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${_file} ${_original_file})
endforeach()
set(KNOWN_TEMPLATES_SOURCE ${CMAKE_CURRENT_BINARY_DIR}/known_templates_data.cc)
string(CONCAT _source
  "#include \"engine/text/known_templates.h\"\n\n"
  "namespace finetuned::text {\n\n"
  "std::span<const KnownTemplate> KnownTemplates() {\n"
  "  static constexpr KnownTemplate kTemplates[] = {\n${_table}  };\n"
  "  return kTemplates;\n}\n\n}  // namespace finetuned::text\n")
set(_written "")
if(EXISTS ${KNOWN_TEMPLATES_SOURCE})
  file(READ ${KNOWN_TEMPLATES_SOURCE} _written)
endif()
if(NOT _written STREQUAL _source)  # an unchanged file is not compiled again
  file(WRITE ${KNOWN_TEMPLATES_SOURCE} "${_source}")
endif()
