# Writes OUT: a C header with the hash of the code generator's own text, which is part of the key of cached objects: an
# object made by another kdc is never taken for one of ours.
set(all "")
foreach(file ${FILES})
  file(SHA256 ${file} hash)
  string(APPEND all ${hash})
endforeach()
string(SHA256 version "${all}")
file(WRITE ${OUT} "#define KD_CODEGEN_VERSION \"${version}\"\n")
